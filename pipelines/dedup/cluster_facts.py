"""What the clusters of a corpus say of each image in them: its nearest better neighbour, and the
share of the corpus in which it is kept."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from gristmill.pipelines.dedup.connected_components import places
from gristmill.pipelines.dedup.kmeans import most_similar
from gristmill.pipelines.dedup.part_arrays import PartRows

# Vectors compared at a time.
_TILE = 4096
# Nearest other centroids whose mean distance says how far a cluster is from the rest.
_NEIGHBOURS = 20


def random_keys(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A random number [n] for each image that depends on nothing but its digest [n, 2] and the
    seed."""
    return np.array([xxhash.xxh3_64_intdigest(row.tobytes(), seed=seed) for row in ids], np.uint64)


def by_cluster(
    cluster: NDArray[np.integer], images: NDArray[np.int64], clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`images` [n] sorted by their `cluster` [n], and where each cluster ends in them,
    [clusters]."""
    order = np.argsort(cluster, kind="stable")
    return images[order], np.cumsum(np.bincount(cluster, minlength=clusters)).astype(np.int64)


def best_before(
    vectors: PartRows[np.float16],
    rank: NDArray[np.int64],
    members: NDArray[np.int64],
    queries: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each image of `queries` [n]: the highest cosine to one of `members` [m] that is preferred
    to it (of lower `rank`), and that image; -1 and -1 if there is none."""
    best = np.full(len(queries), -1, np.float32)
    which = np.full(len(queries), -1, np.int64)
    # Members in the order of preference: the first of equals is the preferred.
    members = members[np.argsort(rank[members], kind="stable")]
    for low in range(0, len(members), _TILE):
        there = members[low : low + _TILE]
        values = vectors.take(there).astype(np.float32)
        for start in range(0, len(queries), _TILE):
            rows = slice(start, start + _TILE)
            cosine = vectors.take(queries[rows]).astype(np.float32) @ values.T
            cosine[rank[there][None] >= rank[queries[rows]][:, None]] = -1
            column = cosine.argmax(axis=1)
            value = cosine[np.arange(len(column)), column]
            better = value > best[rows]
            best[rows] = np.where(better, value, best[rows])
            which[rows] = np.where(better, there[column], which[rows])
    return best, which


def density_shares(
    cluster: NDArray[np.integer],
    to_centroid: NDArray[np.float32],
    centroids: NDArray[np.float32],
    temperature: float,
    ids: NDArray[np.uint64],
) -> NDArray[np.float32]:
    """The smallest share of the corpus, 0..1, in which each image is kept, [n]; of its cluster [n],
    its cosine to that cluster's centroid [n], the centroids [clusters, width] and its digest
    [n, 2].

    A cluster's complexity is its mean distance to its centroid times the distance of that centroid
    to its nearest others; clusters are kept in proportion to the softmax of complexity, up to what
    they have, the images farthest from the centroid first (Abbas et al. 2024). A cluster of weight
    p gives its r-th image when the common factor passes r / p: so one order serves every share.
    """
    count = len(cluster)
    if not count:
        return np.zeros(0, np.float32)
    size = np.bincount(cluster, minlength=len(centroids))
    total = np.bincount(cluster, 1 - to_centroid.astype(np.float64), minlength=len(centroids))
    inner = total / np.maximum(size, 1)
    if len(centroids) > 1:
        similarity, _ = most_similar(centroids, centroids, min(_NEIGHBOURS + 1, len(centroids)), 1)
        outer = 1 - similarity[:, 1:].astype(np.float64).mean(axis=1)
    else:
        outer = np.ones(1)
    complexity = np.where(size > 0, inner * outer, -np.inf) / temperature
    weight = np.exp(complexity - complexity.max())
    place = places(cluster, [ids[:, 1], ids[:, 0], to_centroid])
    factor = (place + 1) / np.maximum(weight[cluster], 1e-300)
    ranked = np.lexsort((ids[:, 1], ids[:, 0], factor))
    share = np.empty(count, np.float32)
    share[ranked] = (np.arange(count) + 1) / count
    return share
