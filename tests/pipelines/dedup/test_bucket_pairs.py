"""Small buckets are compared each with each, crowded ones with leaders, in a bounded number of
pairs."""

from __future__ import annotations

import numpy as np
import pytest

from gristmill.pipelines.dedup.bucket_pairs import ALL_PAIRS, LEADERS, join_buckets
from gristmill.pipelines.dedup.connected_components import Edges, components


def joined(keys: list[int], kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Components and what was capped, where things of one kind are alike; and pairs compared."""
    compared = 0

    def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(a)
        return np.asarray(kinds[a] == kinds[b])

    edges = Edges()
    capped = join_buckets(np.array(keys, np.uint64), alike, edges)
    return components(edges.forest(), len(keys)), capped, compared


def test_a_small_bucket_is_compared_each_with_each() -> None:
    kinds = np.array([0, 1, 0, 1, 0, 0])
    group, capped, compared = joined([7, 7, 7, 7, 9, 9], kinds)
    assert compared == 6 + 1 and not len(capped)
    assert group[0] == group[2] != group[1] == group[3] != group[4] == group[5] != group[0]


@pytest.mark.parametrize("kinds", [1, 3, LEADERS])
def test_a_crowded_bucket_finds_the_kinds_of_its_leaders(kinds: int) -> None:
    count = 50 * ALL_PAIRS
    of = np.random.default_rng(kinds).integers(kinds, size=count)
    group, capped, compared = joined([5] * count, of)
    assert not len(capped) and compared < kinds * count
    assert len(np.unique(group)) == kinds
    assert all(len(np.unique(group[of == kind])) == 1 for kind in range(kinds))


def test_what_is_like_no_leader_is_said_to_be_capped() -> None:
    """Captions of one template that are like none: all pairs of them would be half a billion."""
    count = 30_000
    kinds = np.arange(count)
    kinds[-1] = kinds[0]
    group, capped, compared = joined([1] * count, kinds)
    assert compared <= LEADERS * count
    assert len(capped) == count - LEADERS - 1 and group[-1] == group[0]
    assert not set(range(LEADERS)) & set(capped.tolist())


def test_nothing_meets_nothing() -> None:
    assert not len(joined([], np.zeros(0, int))[1])
    assert not len(joined([1, 2, 3], np.zeros(3, int))[1])
