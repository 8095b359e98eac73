"""Makes the picture of a report that README and the site show: `make picture`. Needs chromium.

A small demo is run into a temporary folder (or the run that is given is taken), and the top of its
report photographed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from gristmill.dags.session import write_report

WIDTH, HEIGHT = 1100, 760


def main() -> None:
    """Run, report, photograph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="The .png to write.")
    parser.add_argument("--run", default="", help="A finished run of the demo.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = given.run or f"{scratch}/demo"
        if not given.run:
            demo = ["demo", "--out", run, "--scenes", "1500", "--steps", "0", "--plain"]
            subprocess.run([sys.executable, "-m", "gristmill", *demo], check=True)
        write_report(run, command="gristmill demo")
        photograph(Path(run, "report.html"), given.out)


def photograph(page: Path, out: str) -> None:
    """The top of a page as a PNG of few colours."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={profile}/shot.png", page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        shot = cv2.imread(f"{profile}/shot.png")
    cv2.imwrite(out, shot, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
