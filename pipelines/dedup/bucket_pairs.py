"""Pairs of captions to compare, of those that meet in a bucket: all of a small one, those with a
leader in a crowded one. One template makes a hundred thousand captions that meet in every band;
all their pairs would take hours, and say no more than who leads whom.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.dedup.connected_components import Edges
from gristmill.pipelines.dedup.hamming import joined_pairs

# Most captions of a bucket that are compared each with each.
ALL_PAIRS = 64
# Leaders of a crowded bucket, one after the other: what is like none of them is not compared on.
LEADERS = 32
# Pairs that are verified at a time.
_CHUNK = 200_000

Numbers = NDArray[np.int64]
Alike = Callable[[Numbers, Numbers], NDArray[np.bool_]]


def join_buckets(keys: NDArray[np.uint64], alike: Alike, edges: Edges) -> Numbers:
    """Adds the edges of pairs that share a key and are alike; returns the numbers of those that
    were not compared with all of a crowded bucket that their leaders left.

    A caption joins the first leader that it is like, and leads none itself. Leaders are taken in
    the order of the captions, so that the same captions give the same edges.
    """
    order = np.argsort(keys, kind="stable")
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    small = np.flatnonzero((counts > 1) & (counts <= ALL_PAIRS))
    for a, b in joined_pairs(starts, counts, small, small, same=True):
        _add(order[a], order[b], alike, edges)
    crowded = np.flatnonzero(counts > ALL_PAIRS)
    members = [order[starts[i] : starts[i] + counts[i]] for i in crowded]
    bucket = np.repeat(np.arange(len(crowded)), counts[crowded])
    return _join_leaders(np.concatenate([order[:0], *members]), bucket, alike, edges)


def _add(a: Numbers, b: Numbers, alike: Alike, edges: Edges) -> NDArray[np.bool_]:
    """Which of the pairs are alike; these become edges."""
    found = [np.zeros(0, bool)]
    for i in range(0, len(a), _CHUNK):
        left, right = a[i : i + _CHUNK], b[i : i + _CHUNK]
        found.append(alike(left, right))
        edges.add(np.stack([left[found[-1]], right[found[-1]]], axis=1).astype(np.int64))
    return np.concatenate(found)


def _join_leaders(members: Numbers, bucket: Numbers, alike: Alike, edges: Edges) -> Numbers:
    """Members by bucket; what is left when all leaders were taken."""
    for _ in range(LEADERS):
        if not len(members):
            break
        _, first, of = np.unique(bucket, return_index=True, return_inverse=True)
        follows = np.ones(len(members), bool)
        follows[first] = False
        leader = members[first][of]
        left = follows.copy()
        left[follows] = ~_add(leader[follows], members[follows], alike, edges)
        members, bucket = members[left], bucket[left]
    return members
