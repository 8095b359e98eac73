"""Connected components over pairs, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HELD = 2_000_000


def components(edges: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """The component of each of `count` things, joined by edges [k, 2]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges), np.int8)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return np.asarray(label, np.int32)


def forest(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges with the same components, at most one for each thing."""
    if not len(edges):
        return np.zeros((0, 2), np.int64)
    nodes, flat = np.unique(edges, return_inverse=True)
    label = components(flat.reshape(edges.shape), len(nodes))
    _, first = np.unique(label, return_index=True)
    joined = np.stack([nodes[first[label]], nodes], axis=1)
    return np.asarray(joined[joined[:, 0] != joined[:, 1]], np.int64)


class Edges:
    """Collects pairs; holds no more than a few million, since a forest says the same."""

    def __init__(self) -> None:
        self._held: list[NDArray[np.int64]] = []
        self._count = 0

    def add(self, edges: NDArray[np.int64]) -> None:
        """Pairs [k, 2]."""
        self._held.append(edges)
        self._count += len(edges)
        if self._count > _HELD:
            self._held = [self.forest()]
            self._count = len(self._held[0])

    def forest(self) -> NDArray[np.int64]:
        """A forest of all that was added."""
        return forest(np.concatenate([np.zeros((0, 2), np.int64), *self._held]))


def equal_rows(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Edges that join rows with equal values, each to the first of its kind."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    ordered = values[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1) & (ordered[1:] != 0).any(axis=1)
    return np.stack([order[:-1][same], order[1:][same]], axis=1).astype(np.int64)


def leaders(
    group: NDArray[np.integer], keys: Sequence[NDArray[np.number]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each thing: the first of its group by lexsort keys, and how many the group has."""
    order, starts, sizes = _runs(group, keys)
    first, size = np.empty(len(group), np.int64), np.empty(len(group), np.int64)
    first[order] = np.repeat(order[starts], sizes)
    size[order] = np.repeat(sizes, sizes)
    return first, size


def places(group: NDArray[np.integer], keys: Sequence[NDArray[np.number]]) -> NDArray[np.int64]:
    """Place of each thing within its group, from 0, by lexsort keys."""
    order, starts, sizes = _runs(group, keys)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return place


def _runs(
    group: NDArray[np.integer], keys: Sequence[NDArray[np.number]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """An order with groups together, where each group begins in it, and its size."""
    order = np.lexsort((*keys, group)).astype(np.int64)
    ordered = group[order]
    begins = np.ones(len(ordered), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begins)
    return order, starts, np.diff(np.append(starts, len(ordered)))
