"""Grids of pictures of any size: near the budget, near the ratio, never larger than they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gristmill.model.documents.picture_grid import fit_grid, square_grid


def test_grids_keep_to_the_budget_and_near_the_ratio() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width = (int(2 ** rng.uniform(4, 12.5)) for _ in range(2))
        patch, most = int(rng.choice([4, 8, 14, 16, 32])), int(2 ** rng.uniform(6, 12))
        rows, columns = fit_grid(height, width, patch, most)
        assert 1 <= rows * columns <= most and max(rows, columns) <= 256, (height, width)
        # Not made larger than to the next whole patch.
        assert rows <= math.ceil(height / patch) and columns <= math.ceil(width / patch)
        if min(rows, columns) < 4 or max(rows, columns) == 256:
            continue
        off = abs(math.log(rows / columns) - math.log(height / width))
        assert off < 2 / min(rows, columns), (height, width, patch, most)
        if height * width > 4 * most * patch**2:
            assert rows * columns > most * 0.7, (height, width, patch, most, rows, columns)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((96, 96), (6, 6)),
        ((24, 24), (6, 6)),
        ((23, 25), (6, 6)),
        ((9, 9), (2, 2)),
        ((1, 1), (1, 1)),
        ((1000, 10), (36, 1)),
        ((10, 1000), (1, 36)),
        ((100, 200), (4, 8)),
    ],
)
def test_grids_of_small_and_long_pictures(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert fit_grid(*size, 4, 36) == grid


def test_sides_end_where_they_can_be_spelt() -> None:
    assert fit_grid(10_000, 400, 4, 4096) == (256, 12)
    assert [square_grid(most) for most in (36, 40, 10**6)] == [(6, 6), (6, 6), (256, 256)]
