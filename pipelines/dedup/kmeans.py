"""k-means and its nearest centroids, by faiss, with a fixed number of threads.

Sums of floats depend on how many threads make them: the number is a field of the stage that asks,
and whatever else this process does with faiss is left with the number it had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


@contextlib.contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Within the block faiss has `count` threads; afterwards as many as before."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def learn_centroids(
    vectors: NDArray[np.float32],
    clusters: int,
    *,
    iterations: int,
    sample: int,
    seed: int,
    threads: int,
    spherical: bool = False,
) -> NDArray[np.float32]:
    """Centroids [clusters, width] of `vectors` [n, width], of unit length if `spherical`.

    The same on every run of the same threads. Of more than `sample` vectors for each cluster, faiss
    takes that many.
    """
    import faiss

    with faiss_threads(threads):
        kmeans = faiss.Kmeans(
            vectors.shape[1], clusters, niter=iterations, seed=seed + 1, spherical=spherical,
            min_points_per_centroid=1, max_points_per_centroid=sample,
        )  # fmt: skip
        kmeans.train(np.ascontiguousarray(vectors))
        return np.asarray(kmeans.centroids, np.float32).reshape(clusters, -1)


def most_similar(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], count: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and numbers, [n, count], of the centroids most like each of `vectors` [n, width], the
    likest first; both are of unit length."""
    import faiss

    with faiss_threads(threads):
        index = faiss.IndexFlatIP(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, np.float32))
        similarity, found = index.search(np.ascontiguousarray(vectors, np.float32), count)
        return similarity, found


def nearest_centroid(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], threads: int
) -> NDArray[np.int64]:
    """[n]: the number of the centroid at the least Euclidean distance of each of `vectors`
    [n, width]."""
    import faiss

    if not len(vectors):
        return np.zeros(0, np.int64)
    with faiss_threads(threads):
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, np.float32))
        found: NDArray[np.int64] = index.search(np.ascontiguousarray(vectors, np.float32), 1)[1]
        return found[:, 0]


def unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of `values` [n, width] at length 1; a row of zeros, or with a value that is no number,
    is left at zero."""
    rows = np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
