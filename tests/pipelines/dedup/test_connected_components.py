"""Components, thinned edges, leaders and places."""

from __future__ import annotations

import numpy as np
import pytest

from gristmill.pipelines.dedup import connected_components
from gristmill.pipelines.dedup.connected_components import (
    Edges,
    components,
    forest,
    leaders,
    places,
)

EDGES = np.array([[0, 1], [1, 2], [0, 2], [4, 5], [2, 0]], np.int64)


def groups(label: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(label == one).tolist()) for one in set(label.tolist())}


def test_components_join_what_edges_join() -> None:
    found = groups(components(EDGES, 7))
    assert found == {frozenset({0, 1, 2}), frozenset({3}), frozenset({4, 5}), frozenset({6})}


def test_a_forest_has_the_same_components_with_fewer_edges() -> None:
    thin = forest(EDGES)
    assert len(thin) == 3 and groups(components(thin, 7)) == groups(components(EDGES, 7))
    assert forest(EDGES[:0]).shape == (0, 2)


def test_collected_edges_are_thinned_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connected_components, "_HELD", 4)
    edges = Edges()
    for _ in range(10):
        edges.add(EDGES)
        assert edges._count <= 3
    assert groups(components(edges.forest(), 7)) == groups(components(EDGES, 7))


def test_leaders_and_places_go_by_the_last_key_first() -> None:
    group = np.array([1, 0, 1, 1])
    keys = [np.array([3, 0, 1, 2]), np.array([0, 0, 1, 0])]
    leader, size = leaders(group, keys)
    assert leader.tolist() == [3, 1, 3, 3] and size.tolist() == [3, 1, 3, 3]
    assert places(group, keys).tolist() == [1, 0, 2, 0]
