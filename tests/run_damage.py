"""What can happen to a file of a run, and which kinds of files there are."""

from __future__ import annotations

import re
from pathlib import Path

# No record names them: they are for people, or of the moment.
APART = re.compile(r"logs/|report\.html|run\.lock|scratch/|pilot/")


def kind_of(name: str) -> str:
    """A file's name without the numbers and tokens that tell it from its like."""
    name = re.sub(r"-[0-9a-f]{12}/", "/", name)
    name = re.sub(r"-[0-9a-f]{8}\.", "-TOKEN.", name)
    return re.sub(r"\d{6,8}", "N", name)


def files_of_each_kind(run: Path) -> dict[str, str]:
    """Kind -> the last file of it, below a run's folder."""
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    return {kind_of(name): name for name in names if not APART.match(name)}


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def remove(path: Path) -> None:
    """Take all of it."""
    path.unlink()


DAMAGES = (flip, cut, remove)
