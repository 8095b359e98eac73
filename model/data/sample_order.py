"""In which order the samples of a source come."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = int | NDArray[np.int64]
"""Of a shard: how many rows it has, where all may come, or the numbers of those that may."""


class SampleOrder:
    """Sample number -> (shard, row), a function of the seed alone.

    Each epoch shuffles the shards, and then the samples inside windows of some shards: near to a
    full shuffle, and a reader stays within few files. A look-up is a search among the windows; what
    is held grows with the shards, and not with their rows but for those of few windows.
    """

    def __init__(self, rows: Sequence[Rows], seed: int, window: int = 16) -> None:
        self.rows, self.seed, self.window = list(rows), seed, window
        self._counts = np.array([_count(part) for part in rows], np.int64)
        self.size = int(self._counts.sum())
        # Its own: several sources are read in turn.
        self._shards = lru_cache(maxsize=2)(self._order_shards)
        self._window = lru_cache(maxsize=4)(self._order_window)

    def __reduce__(self) -> tuple[type[SampleOrder], tuple[list[Rows], int, int]]:
        return SampleOrder, (self.rows, self.seed, self.window)

    def __getitem__(self, number: int) -> tuple[int, int]:
        """The sample that comes `number`-th, over all epochs."""
        epoch, at = divmod(number, self.size)
        ends = self._shards(epoch)[1]
        window = int(np.searchsorted(ends, at, side="right"))
        start = int(ends[window - 1]) if window else 0
        shard, row = self._window(epoch, window)[at - start].tolist()
        return shard, row

    def count(self, shard: int) -> int:
        """Samples of a shard."""
        return int(self._counts[shard])

    def numbers(self, shard: int) -> NDArray[np.int64]:
        """Their rows."""
        return as_numbers(self.rows[shard])

    def _order_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of the shards, and the number of samples up to the end of each window."""
        rng = np.random.Generator(np.random.PCG64([self.seed, 21, epoch]))
        order = rng.permutation(len(self.rows))
        ends = np.cumsum(self._counts[order])
        last = np.minimum(np.arange(0, len(order), self.window) + self.window, len(order)) - 1
        return order, ends[last]

    def _order_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        """(shard, row) of the samples of a window, shuffled."""
        order = self._shards(epoch)[0]
        shards = order[window * self.window : (window + 1) * self.window].tolist()
        parts = [as_numbers(self.rows[shard]) for shard in shards]
        pairs = np.stack([np.repeat(shards, self._counts[shards]), np.concatenate(parts)], axis=1)
        rng = np.random.Generator(np.random.PCG64([self.seed, 22, epoch, shards[0]]))
        return np.asarray(rng.permutation(pairs))


def _count(rows: Rows) -> int:
    return rows if isinstance(rows, int) else len(rows)


def as_numbers(rows: Rows) -> NDArray[np.int64]:
    """The numbers of a shard's rows."""
    return np.arange(rows) if isinstance(rows, int) else rows
