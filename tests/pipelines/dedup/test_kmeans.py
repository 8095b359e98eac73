"""k-means by faiss, and the threads it leaves behind."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from gristmill.pipelines.dedup.kmeans import (
    faiss_threads,
    learn_centroids,
    most_similar,
    nearest_centroid,
    unit,
)


def test_threads_are_given_back_even_after_an_error() -> None:
    before = faiss.omp_get_max_threads()
    with pytest.raises(ValueError, match="no"), faiss_threads(before + 2):
        assert faiss.omp_get_max_threads() == before + 2
        raise ValueError("no")
    assert faiss.omp_get_max_threads() == before


def test_centroids_of_two_heaps_lie_in_them_and_repeat() -> None:
    rng = np.random.default_rng(0)
    heaps = np.concatenate([rng.normal(m, 0.1, (40, 3)) for m in (-2, 2)]).astype(np.float32)
    found = [
        learn_centroids(heaps, 2, iterations=5, sample=64, seed=0, threads=1) for _ in range(2)
    ]
    assert found[0].tobytes() == found[1].tobytes()
    assert sorted(found[0].mean(axis=1).round().tolist()) == [-2, 2]
    number = nearest_centroid(heaps, found[0], 1)
    assert len(set(number[:40].tolist())) == len(set(number[40:].tolist())) == 1
    assert number[0] != number[40]
    assert nearest_centroid(heaps[:0], found[0], 1).shape == (0,)


def test_the_most_similar_comes_first() -> None:
    centroids = np.eye(3, dtype=np.float32)
    cosine, number = most_similar(unit(np.array([[3.0, 4.0, 0.0]])), centroids, 2, 1)
    assert number.tolist() == [[1, 0]] and np.allclose(cosine, [[0.8, 0.6]])


def test_unit_leaves_what_has_no_direction_at_zero() -> None:
    rows = unit(np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]]))
    assert rows.tolist() == [[0, 0], [0, 1], [0, 0]]
