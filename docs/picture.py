"""Makes the pictures that README and the site show, of a finished run: its report, and its page in
the explorer beside it: `make picture RUN=runs/demo`. Needs chromium."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
from pathlib import Path

import cv2

from gristmill.dags.explorer.server import Explorer, serving
from gristmill.dags.session import write_report

REPORT, EXPLORER = (1100, 760), (1280, 980)


def main() -> None:
    """Write the report of a run, and photograph it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="Folder of a finished run.")
    parser.add_argument("out", help="The folder to write report.png and explorer.png into.")
    given = parser.parse_args()
    write_report(given.run, command="gristmill demo")
    out = Path(given.out)
    photograph(Path(given.run, "report.html").resolve().as_uri(), str(out / "report.png"), REPORT)
    asyncio.run(photograph_explorer(given.run, str(out / "explorer.png")))


async def photograph_explorer(run: str, out: str) -> None:
    """The page as it opens."""
    async with serving(Explorer(run)) as address:
        await asyncio.to_thread(photograph, address, out, EXPLORER)


def photograph(address: str, out: str, size: tuple[int, int]) -> None:
    """The top of a page as a PNG of this width and height."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={profile}", "--window-size={},{}".format(*size),
                "--virtual-time-budget=20000",
                f"--screenshot={profile}/shot.png", address,
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        shot = cv2.imread(f"{profile}/shot.png")
    cv2.imwrite(out, shot, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
