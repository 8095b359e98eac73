"""How many rows and columns a picture of any size and ratio takes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from gristmill.model.documents.vocabulary import SIDES


@dataclass(frozen=True)
class PictureGrid:
    """Rows and columns of one picture: of its codes or latents, and of its semantic patches."""

    image: tuple[int, int] = (0, 0)
    semantic: tuple[int, int] = (0, 0)

    @property
    def places(self) -> int:
        """Places of codes or latents."""
        return self.image[0] * self.image[1]


def fit_grid(height: float, width: float, patch: int, most: int) -> tuple[int, int]:
    """(rows, columns) of patches of `patch` pixels for a picture of height x width pixels: at most
    `most` of them, at its own ratio as nearly as whole patches can, and not larger than it is.

    A picture of less than a patch has one; sides are at most 256, beyond which ratios are cut.
    """
    rows, columns = height / patch, width / patch
    scale = min(1.0, math.sqrt(most / (rows * columns)))
    wanted = (max(1.0, rows * scale), max(1.0, columns * scale))
    sides = [
        {min(SIDES, most, max(1, near)) for near in (math.floor(side), math.ceil(side))}
        for side in wanted
    ]
    fitting = [(r, c) for r, c in itertools.product(*sides) if r * c <= most]
    if not fitting:
        # One side is a single patch already, and the other takes what is left.
        rounded = [min(side) for side in sides]
        return (1, min(rounded[1], most)) if rounded[0] == 1 else (min(rounded[0], most), 1)
    ratio = math.log(height / width)

    def badness(grid: tuple[int, int]) -> tuple[float, int]:
        # What the ratio loses is cut off the picture; what the area loses is only not seen as fine.
        area = abs(math.log(grid[0] * grid[1] / (wanted[0] * wanted[1])))
        off = abs(math.log(grid[0] / grid[1]) - ratio)
        return (round(area + 2 * off, 9), -grid[0] * grid[1])

    return min(sorted(fitting), key=badness)


def square_grid(most: int) -> tuple[int, int]:
    """The largest square of at most `most` patches, for a picture of unknown size, or one that is
    drawn at no size in particular."""
    side = max(1, min(SIDES, math.isqrt(most)))
    return side, side
