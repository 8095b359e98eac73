"""Pictures and their words on one sheet, for a person to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError

_TILE, _LINE, _LINES, _GAP = 120, 13, 4, 6


def write_picture(path: str, picture: NDArray[np.uint8]) -> None:
    """Write uint8 RGB to a file whose name says the format."""
    swapped = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    try:
        written = cv2.imwrite(path, swapped)
    except cv2.error:
        written = False
    if not written:
        raise ConfigurationError(f"{path} cannot be written; give a folder that exists and .png")


def contact_sheet(
    tiles: Sequence[tuple[NDArray[np.uint8], str]], columns: int = 8
) -> NDArray[np.uint8]:
    """uint8 RGB of (picture, words) in rows."""
    columns = max(1, min(columns, len(tiles)))
    height, width = _TILE + _LINE * _LINES + _GAP, _TILE + _GAP
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for number, (picture, words) in enumerate(tiles):
        top = number // columns * height + _GAP
        left = number % columns * width + _GAP
        scale = _TILE / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        # Small pictures in whole pixels, large ones by averaging.
        how = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
        large = cv2.resize(picture, size, interpolation=how)
        sheet[top : top + size[1], left : left + size[0]] = large
        for line, text in enumerate(textwrap.wrap(words, 21)[:_LINES]):
            place = (left, top + _TILE + _LINE * (line + 1) - 3)
            cv2.putText(
                sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, (30, 30, 30), 1, cv2.LINE_AA
            )
    return sheet
