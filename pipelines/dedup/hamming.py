"""All pairs of 64-bit hashes within a Hamming radius, exactly, without comparing all pairs.

Multi-index hashing (Norouzi, Punjani & Fleet, 2012): the 64 bits are cut into bands. If the band
radii add up right (sum of (r_i + 1) = r + 1), any pair within r agrees within r_i in some band i,
so only pairs that meet in a bucket of some band are compared. How many bands, and how wide, is
chosen by the number of hashes. Bands, and slices of their masks, are independent tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]
BITS = 64
# Pairs compared at a time: bounds memory to about 300 MB.
CHUNK_PAIRS = 4_000_000
# A task makes about this many comparisons.
TASK_PAIRS = 400_000_000


@dataclass(frozen=True)
class Band:
    """`width` bits from bit `start` (0 is the lowest), searched within `radius`."""

    start: int
    width: int
    radius: int

    def keys(self, hashes: Hashes) -> NDArray[np.uint32]:
        """The band of each hash."""
        mask = np.uint64((1 << self.width) - 1)
        return ((hashes >> np.uint64(self.start)) & mask).astype(np.uint32)

    def masks(self) -> list[int]:
        """Bit patterns by which two keys may differ."""
        return [
            sum(1 << bit for bit in bits)
            for count in range(self.radius + 1)
            for bits in itertools.combinations(range(self.width), count)
        ]

    def cost(self, n: int) -> float:
        """Expected comparisons for n uniform hashes, plus what each mask costs in itself."""
        masks = sum(math.comb(self.width, k) for k in range(self.radius + 1))
        return float(masks * (n * n / 2**self.width / 2 + n / 4))


@dataclass(frozen=True)
class Task:
    """A slice of a band's masks."""

    band: Band
    first: int
    last: int


def plan_bands(n: int, radius: int) -> list[Band]:
    """The cheapest bands for n hashes."""
    best: list[Band] = []
    for count in range(2, max(radius, 1) + 2):
        widths = [BITS // count + (i < BITS % count) for i in range(count)]
        shares = [(radius + 1) // count + (i < (radius + 1) % count) for i in range(count)]
        starts = [sum(widths[:i]) for i in range(count)]
        bands = [
            Band(*place) for place in zip(starts, widths, (s - 1 for s in shares), strict=True)
        ]
        if not best or sum(b.cost(n) for b in bands) < sum(b.cost(n) for b in best):
            best = bands
    return best


# Hashes whose pairs are found within seconds.
FEW = 10_000


def plan_tasks(n: int, radius: int) -> list[Task]:
    """Independent tasks that together find every pair."""
    tasks = []
    for band in plan_bands(n, radius):
        masks = len(band.masks())
        slices = max(1, min(masks, math.ceil(band.cost(n) / TASK_PAIRS)))
        cuts = [masks * i // slices for i in range(slices + 1)]
        tasks += [Task(band, a, b) for a, b in itertools.pairwise(cuts)]
    return tasks


def plan_groups(n: int, radius: int) -> list[list[Task]]:
    """The same tasks, those that belong together: of few hashes all are one, which reads once what
    each would read."""
    tasks = plan_tasks(n, radius)
    return [tasks] if n <= FEW else [[task] for task in tasks]


def close_pairs(hashes: Hashes, radius: int, task: Task) -> Iterator[Pairs]:
    """Arrays [k, 2] of index pairs (a < b) within `radius` that meet in the task's band.

    A pair may be found by several tasks, never twice by one.
    """
    keys = task.band.keys(hashes)
    order = np.argsort(keys, kind="stable")
    ordered = hashes[order]
    keys = keys[order]
    buckets, starts, counts = np.unique(keys, return_index=True, return_counts=True)
    for mask in task.band.masks()[task.first : task.last]:
        if mask == 0:
            left = right = np.flatnonzero(counts > 1)
        else:
            # Each pair of buckets once: from the one whose highest differing bit is 0.
            high = np.uint32(1 << (mask.bit_length() - 1))
            low = np.flatnonzero((buckets & high) == 0)
            wanted = buckets[low] ^ np.uint32(mask)
            place = np.minimum(np.searchsorted(buckets, wanted), len(buckets) - 1)
            there = buckets[place] == wanted
            left, right = low[there], place[there]
        for a, b in joined_pairs(starts, counts, left, right, same=mask == 0):
            near = np.bitwise_count(ordered[a] ^ ordered[b]) <= radius
            if near.any():
                found = np.stack([order[a[near]], order[b[near]]], axis=1)
                found.sort(axis=1)
                yield found


def joined_pairs(
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    same: bool,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs (member of left bucket, member of right bucket), in chunks of bounded size."""
    if not len(left):
        return
    # One entry for each member of a left bucket: how many partners it has, and where they begin.
    sizes = counts[left]
    member = np.repeat(starts[left] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    if same:
        ends = np.repeat(starts[left] + sizes, sizes)
        first, partners = member + 1, ends - member - 1
    else:
        first = np.repeat(starts[right], sizes)
        partners = np.repeat(counts[right], sizes)
    total = np.cumsum(partners)
    begin = 0
    while begin < len(member):
        done = total[begin - 1] if begin else 0
        end = int(np.searchsorted(total, done + CHUNK_PAIRS, side="right"))
        if end > begin:
            yield _expand(member[begin:end], first[begin:end], partners[begin:end])
            begin = end
            continue
        # One member with more partners than fit a chunk: a slice of them at a time.
        for at in range(0, int(partners[begin]), CHUNK_PAIRS):
            size = min(CHUNK_PAIRS, int(partners[begin]) - at)
            yield (
                np.full(size, member[begin], np.int64),
                np.arange(first[begin] + at, first[begin] + at + size, dtype=np.int64),
            )
        begin += 1


def _expand(
    member: NDArray[np.int64], first: NDArray[np.int64], partners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    total = int(partners.sum())
    a = np.repeat(member, partners)
    shift = first - np.cumsum(partners) + partners
    b = np.repeat(shift, partners) + np.arange(total)
    return a, b
