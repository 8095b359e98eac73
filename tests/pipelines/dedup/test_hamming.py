"""All pairs within a radius, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gristmill.pipelines.dedup import hamming
from gristmill.pipelines.dedup.hamming import (
    BITS,
    FEW,
    close_pairs,
    plan_bands,
    plan_groups,
    plan_tasks,
)


def near_hashes(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, np.uint64)
    for i in range(count // 2, count):
        flips = rng.choice(64, int(rng.integers(0, 9)), replace=False)
        hashes[i] = hashes[i - count // 2] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    return hashes


@pytest.mark.parametrize("radius", [0, 3, 8])
def test_all_pairs_are_found(radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small chunks, so that pairs of one bucket are cut.
    monkeypatch.setattr(hamming, "CHUNK_PAIRS", 7)
    hashes = near_hashes(120)
    found = {
        tuple(pair)
        for task in plan_tasks(len(hashes), radius)
        for pairs in close_pairs(hashes, radius, task)
        for pair in pairs.tolist()
    }
    expected = {
        (a, b)
        for a, b in itertools.combinations(range(len(hashes)), 2)
        if int(hashes[a] ^ hashes[b]).bit_count() <= radius
    }
    assert found == expected and found


@pytest.mark.parametrize("count", [1, 1000, 10**9])
def test_bands_cover_all_bits_and_miss_no_pair(count: int) -> None:
    for radius in (0, 1, 8, 16):
        bands = plan_bands(count, radius)
        assert sum(band.width for band in bands) == BITS
        assert sum(band.radius + 1 for band in bands) == radius + 1


def test_tasks_share_the_masks_of_a_band() -> None:
    for band, tasks in itertools.groupby(plan_tasks(10**7, 8), key=lambda task: task.band):
        borders = [(task.first, task.last) for task in tasks]
        assert borders[0][0] == 0 and borders[-1][1] == len(band.masks())
        assert all(a[1] == b[0] for a, b in itertools.pairwise(borders))


def test_tasks_of_few_hashes_are_one() -> None:
    for count in (1, FEW, FEW + 1, 10**6):
        groups = plan_groups(count, 8)
        assert [task for group in groups for task in group] == plan_tasks(count, 8)
        assert (len(groups) == 1) is (count <= FEW)
