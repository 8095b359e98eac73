"""Facts about images in clusters, on a handful of them."""

from __future__ import annotations

import numpy as np

from gristmill.pipelines.dedup.cluster_facts import (
    best_before,
    by_cluster,
    density_shares,
    random_keys,
)
from gristmill.pipelines.dedup.part_arrays import PartRows

IDS = np.array([[7, 1], [7, 2], [9, 3], [9, 4]], np.uint64)


def test_random_keys_depend_on_digest_and_seed_alone() -> None:
    keys = random_keys(IDS, 0)
    assert random_keys(IDS[::-1].copy(), 0).tolist() == keys[::-1].tolist()
    assert not set(keys.tolist()) & set(random_keys(IDS, 1).tolist())


def test_images_lie_by_cluster_with_empty_ones_between() -> None:
    images, ends = by_cluster(np.array([2, 0, 2, 0]), np.array([10, 11, 12, 13]), 4)
    assert images.tolist() == [11, 13, 10, 12] and ends.tolist() == [2, 2, 4, 4]


def test_the_best_of_those_that_are_preferred() -> None:
    values = np.array([[1, 0], [0.8, 0.6], [0.9, 0.1], [0, 1]], np.float16)
    vectors = PartRows(np.array([0, 2, 4]), [values[:2], values[2:]].__getitem__)
    rank = np.array([1, 0, 2, 3])
    cosine, which = best_before(vectors, rank, np.arange(4), np.arange(4))
    assert which.tolist() == [1, -1, 0, 1]
    assert cosine[1] == -1 and np.allclose(cosine[[0, 2, 3]], [0.8, 0.9, 0.6], atol=1e-3)


def test_density_orders_every_image_once_far_ones_first_in_their_cluster() -> None:
    cluster = np.array([0, 0, 1, 1])
    to_centroid = np.array([0.9, 0.5, 0.95, 0.99], np.float32)
    shares = density_shares(cluster, to_centroid, np.eye(2, dtype=np.float32), 0.1, IDS)
    assert sorted(shares.tolist()) == [0.25, 0.5, 0.75, 1.0]
    assert shares[1] < shares[0] and shares[2] < shares[3]
    # The wider cluster is the more complex one.
    assert shares[1] < shares[2]
    assert (
        density_shares(cluster[:0], to_centroid[:0], np.eye(2, dtype=np.float32), 1, IDS).size == 0
    )
