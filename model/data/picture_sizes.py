"""How large pictures are, known before any is opened: what a planner lays out by."""

from __future__ import annotations

from typing import IO

from gristmill.model.documents.facts import SampleColumns
from gristmill.pipelines.download.picture_bytes import read_header

# Bytes of a file that are looked at for its size, the fewest first: most are written without EXIF,
# and EXIF with a thumbnail takes a segment of 64 KiB at most.
_HEADS = (2**12, 2**17)


def size_of(columns: SampleColumns, number: int = 0) -> tuple[int, int] | None:
    """Height and width of a sample's picture of that number, as its metadata says; None where it
    says nothing.

    Of a clip, its own: frames are smaller copies, of the same ratio.
    """
    several = columns.get("image_heights"), columns.get("image_widths")
    if several[0] is not None and several[1] is not None:
        if number >= min(len(several[0]), len(several[1])):
            return None
        return _size(several[0][number], several[1][number])
    return _size(columns.get("height"), columns.get("width"))


def _size(height: float | None, width: float | None) -> tuple[int, int] | None:
    # A value that is missing in a list of numbers is not a number.
    if height is None or width is None or not (height >= 1 and width >= 1):
        return None
    return int(height), int(width)


def first_bytes(file: IO[bytes], offset: int, size: int) -> bytes:
    """Those of a piece of a file that tell a picture from any other that was encoded."""
    file.seek(offset)
    return file.read(min(_HEADS[0], size))


def upright_size(file: IO[bytes], offset: int, size: int) -> tuple[int, int] | None:
    """Height and width of the picture in a piece of a file, turned as EXIF says, from as few of its
    bytes as tell; None if none do."""
    for most in (*_HEADS, size):
        file.seek(offset)
        head = file.read(min(most, size))
        # What turns a WebP stands at its end.
        if head[8:12] == b"WEBP" and len(head) < size:
            continue
        header = read_header(head)
        if header is not None:
            turned = header.orientation >= 5
            return (header.width, header.height) if turned else (header.height, header.width)
        if most >= size:
            break
    return None
