"""Semantic clusters against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.kmeans import unit
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.schema import digest_fields


def world(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around forty topics, a fifth of them near copies of others; and preferences."""
    rng = np.random.default_rng(seed)
    topics = unit(rng.standard_normal((40, width)))
    base = topics[rng.integers(0, 40, count)] + rng.standard_normal((count, width)) / 12
    copies = rng.permutation(count)[: count // 5]
    base[copies] = base[rng.integers(0, count, len(copies))]
    base[copies] += rng.standard_normal((len(copies), width)) * 0.015
    return unit(base).astype(np.float16), rng.uniform(size=count).astype(np.float32)


def table(vectors: np.ndarray, preferred: np.ndarray) -> pa.Table:
    flat = pa.array(vectors.reshape(-1), pa.float16())
    return pa.table(
        {
            "image_id": [digest_fields("x", str(i)) for i in range(len(vectors))],
            "image_embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            "clip_score": preferred,
        }
    )


def run(stage: SemanticClusters, rows: pa.Table, cuts: list[int], folder: Path) -> pa.Table:
    ends = [0, *cuts, len(rows)]
    parts = [rows.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    return run_global(stage, MemoryWorkspace(parts, folder))


def brute(vectors: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """Highest cosine to a preferred image."""
    values = unit(vectors)
    cosine = values @ values.T
    cosine[preferred[None] <= preferred[:, None]] = -1
    return cosine.max(axis=1)


def test_recall_against_brute_force(tmp_path: Path) -> None:
    vectors, preferred = world(6000, 64)
    found = run(SemanticClusters(clusters=40), table(vectors, preferred), [2500], tmp_path)
    truth = brute(vectors, preferred) > 0.9
    ours = found["semantic_similarity"].to_numpy() > 0.9
    assert truth.sum() > 800
    assert (ours & truth).sum() / truth.sum() >= 0.99
    assert not (ours & ~truth).any()


def test_the_named_image_is_the_near_one_and_preferred(tmp_path: Path) -> None:
    vectors, preferred = world(1500, 32)
    rows = table(vectors, preferred)
    found = run(SemanticClusters(clusters=8, probes=8), rows, [], tmp_path)
    number = {uid: i for i, uid in enumerate(rows["image_id"].to_pylist())}
    values = unit(vectors)
    for i, other in enumerate(found["semantic_duplicate_of"].to_pylist()):
        if other is None:
            assert found["semantic_similarity"][i].as_py() == -1
        else:
            j = number[other]
            assert preferred[j] > preferred[i]
            cosine = float(values[i] @ values[j])
            assert found["semantic_similarity"][i].as_py() == pytest.approx(cosine, abs=5e-4)
    assert found["semantic_duplicate_of"].null_count == 1


def test_the_cut_into_parts_does_not_matter(tmp_path: Path) -> None:
    rows = table(*world(900, 16))
    stage = SemanticClusters(clusters=6)
    assert run(stage, rows, [], tmp_path / "a").equals(run(stage, rows, [13, 500], tmp_path / "b"))


def test_captions_of_one_image_are_one_image(tmp_path: Path) -> None:
    vectors, preferred = world(300, 16)
    rows = table(vectors, preferred)
    twice = pa.concat_tables([rows.slice(0, 1), rows])
    found = run(SemanticClusters(clusters=3, probes=3), twice, [], tmp_path)
    assert found.slice(0, 1).equals(found.slice(1, 1))
    assert found["semantic_cluster_size"].to_numpy()[1:].max() <= 300


def test_ranks_and_density_prune_as_said(tmp_path: Path) -> None:
    vectors, preferred = world(2000, 32)
    # One topic is a fifth of the corpus and lies close together.
    rng = np.random.default_rng(5)
    topic = unit(rng.standard_normal((1, 32)))
    vectors[:400] = unit(topic + rng.standard_normal((400, 32)) / 60).astype(np.float16)
    found = run(SemanticClusters(clusters=20), table(vectors, preferred), [700], tmp_path)
    cluster = found["semantic_cluster"].to_numpy()
    for number in np.unique(cluster):
        rank = np.sort(found["semantic_cluster_rank"].to_numpy()[cluster == number])
        assert (rank == np.arange(len(rank))).all()
    share = found["density_share"].to_numpy()
    assert np.sort(share) == pytest.approx((np.arange(2000) + 1) / 2000)
    # Half of all stays, of the dense topic much less, and of each cluster its outermost.
    assert (share[:400] <= 0.5).mean() < 0.25
    distance = 1 - found["centroid_similarity"].to_numpy()
    for number in np.unique(cluster):
        stays = share[cluster == number] <= 0.5
        if stays.any() and not stays.all():
            inside = distance[cluster == number]
            assert inside[stays].min() >= inside[~stays].max() - 1e-4


def test_images_near_a_target_are_marked(tmp_path: Path) -> None:
    vectors, preferred = world(2000, 32)
    np.save(tmp_path / "target.npy", vectors[:5].astype(np.float32))
    stage = SemanticClusters(clusters=40, target=str(tmp_path / "target.npy"))
    found = run(stage, table(vectors, preferred), [], tmp_path)
    near, cluster = found["near_target"].to_numpy(), found["semantic_cluster"].to_numpy()
    assert set(cluster[near]) == set(cluster[:5])
    assert near[:5].all()
    assert 0.02 < near.mean() < 0.5


@pytest.mark.parametrize("fields", [{"probes": 0}, {"target": "nowhere.npy"}, {"temperature": 0.0}])
def test_bad_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SemanticClusters(**fields).check()


def test_no_images_at_all(tmp_path: Path) -> None:
    vectors, preferred = world(10, 8)
    empty = table(vectors, preferred).slice(0, 0)
    assert len(run(SemanticClusters(), empty, [], tmp_path)) == 0
