"""Makes the picture of a report that README and the site show, of a finished run: `make picture
RUN=runs/demo`. Needs chromium."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2

from gristmill.dags.session import write_report

WIDTH, HEIGHT = 1100, 760


def main() -> None:
    """Write the report of a run, and photograph it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="Folder of a finished run.")
    parser.add_argument("out", help="The .png to write.")
    given = parser.parse_args()
    write_report(given.run, command="gristmill demo")
    photograph(Path(given.run, "report.html"), given.out)


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
