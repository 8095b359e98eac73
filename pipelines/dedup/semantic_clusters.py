"""Meaning over the whole corpus: clusters of embeddings, semantic duplicates, and density.

Spherical k-means cuts the corpus into clusters; what is near an image is then looked for in the
clusters around it alone. All that is written are facts about an image, so that a Keep rule can ask
for a radius, a share, or a cap, and ask again for another:

- SemDeDup (Abbas et al. 2023): `semantic_similarity > 0.95`, or by wanted size
  `semantic_similarity > quantile(semantic_similarity, 0.8)`;
- balance (as MetaCLIP, Xu et al. 2023, does over captions): `semantic_cluster_rank >= 2000`;
- density-based pruning (Abbas et al. 2024): `density_share > 0.5`;
- nearness to a target set (DataComp's image-based filter, Gadre et al. 2023): `NOT near_target`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.connected_components import places
from gristmill.pipelines.dedup.image_ids import (
    best_of_rows,
    distinct_images,
    hex_digests,
    preference,
)
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

# Images for each cluster when their number is not given, and the most of them.
_CLUSTER_IMAGES, _MOST_CLUSTERS = 1000, 50_000
# Vectors compared at a time.
_TILE = 4096
# A task of the search compares about this many pairs.
_TASK_PAIRS = 2_000_000_000
# Nearest other centroids whose mean distance says how far a cluster is from the rest.
_NEIGHBOURS = 20


@dataclass(frozen=True, kw_only=True)
class SemanticClusters(Global):
    """Cluster, nearest better image, and density of every image, by its embedding."""

    libraries: ClassVar[tuple[str, ...]] = ("faiss-cpu",)

    # Column of embeddings; they need not be of unit length.
    embedding: str = "image_embedding"
    # 0: one for each thousand images.
    clusters: int = setting(0, low=0)
    # Clusters in which the neighbours of an image are looked for.
    probes: int = setting(4, low=1)
    # Columns that say which of two neighbours is the better one, higher is better.
    prefer: tuple[str, ...] = ("clip_score",)
    # Images from which the centroids are learnt, for each cluster.
    sample: int = setting(64, unit="images", low=1)
    # Of k-means, for the centroids.
    iterations: int = setting(15, low=1)
    # Softness of density-based pruning.
    temperature: float = setting(0.1, low=0)
    # .npy of embeddings [m, width]: images in clusters next to one of them are `near_target`.
    target: str = ""
    # Of the sample, the first centroids and the order in clusters.
    seed: int = 0
    # Of a worker; part of the result's last bits.
    threads: int = setting(2, low=1)

    def reads(self) -> tuple[str, ...]:
        """Image, embedding, what is preferred."""
        return ("image_id", self.embedding, *self.prefer)

    def writes(self) -> pa.Schema:
        """Facts of the row's image."""
        fields = [
            pa.field("semantic_cluster", pa.int32()),
            pa.field("semantic_cluster_size", pa.int32()),
            pa.field("semantic_cluster_rank", pa.int32()),
            pa.field("centroid_similarity", pa.float32()),
            pa.field("semantic_similarity", pa.float32()),
            pa.field("semantic_duplicate_of", pa.string()),
            pa.field("density_share", pa.float32()),
        ]
        if self.target:
            fields.append(pa.field("near_target", pa.bool_()))
        return pa.schema(fields)

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "semantic_cluster": ColumnFacts("Number of the cluster.", low=0),
            "semantic_cluster_size": ColumnFacts("Images in the cluster.", "images", low=1),
            "semantic_cluster_rank": ColumnFacts(
                "Place of the image in its cluster, in random order, from 0.", low=0
            ),
            "centroid_similarity": ColumnFacts("Cosine to the centroid.", low=-1, high=1),
            "semantic_similarity": ColumnFacts(
                "Highest cosine to an image that is preferred to this one; -1 if none was near.",
                low=-1,
                high=1,
            ),
            "semantic_duplicate_of": ColumnFacts("image_id of that image."),
            "density_share": ColumnFacts(
                "The smallest share of the corpus that density-based pruning keeps it in.",
                low=0,
                high=1,
            ),
            "near_target": ColumnFacts(
                "Whether its cluster is next to an image of the target.",
                only_with="target=FILE.npy",
            ),
        }

    def needs(self) -> Needs:
        """Threads, and the vectors of some clusters."""
        return Needs(cpus=float(self.threads), memory_gb=3.0)

    def files(self) -> tuple[str, ...]:
        """The target's embeddings."""
        return (self.target,) if self.target else ()

    def check(self) -> None:
        """Validate numbers, and that the target is there."""
        if self.clusters < 0 or min(self.probes, self.sample, self.iterations, self.threads) < 1:
            raise ConfigurationError("probes, sample, iterations and threads must be at least 1")
        if self.temperature <= 0:
            raise ConfigurationError(f"temperature is {self.temperature}; it must be positive")
        if self.target:
            if not os.path.exists(self.target):
                raise ConfigurationError(f"{self.target} does not exist; give a .npy of embeddings")
            shape = np.load(self.target, mmap_mode="r", allow_pickle=False).shape
            if len(shape) != 2 or not shape[0]:
                raise ConfigurationError(f"{self.target} has shape {shape}, not [count, width]")

    def phases(self) -> tuple[Phase, ...]:
        """Vectors, centroids, assignment, neighbours by cluster, and what follows from them."""
        return (
            Phase(name="vectors", count=lambda w: w.parts, work=self._vectors),
            Phase(name="centroids", count=lambda _: 1, work=self._centroids),
            Phase(name="assign", count=lambda w: w.parts, work=self._assign),
            Phase(name="members", count=lambda _: 1, work=self._members),
            Phase(
                name="neighbours",
                count=lambda w: len(w.load("tasks")) - 1,
                work=self._neighbours,
            ),
            Phase(name="facts", count=lambda _: 1, work=self._facts),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """The facts of a part's rows."""
        start = int(workspace.load("starts")[part])
        image = np.asarray(workspace.load(f"vectors/{part:06d}.row_image")) + start
        best = np.asarray(workspace.load("nearest"))[image]
        nearest = hex_digests(np.asarray(workspace.load("ids"))[np.maximum(best, 0)])
        columns: list[Any] = [
            np.asarray(workspace.load(name))[image]
            for name in ("cluster", "cluster_size", "cluster_rank", "centroid_similarity", "found")
        ]
        columns.append(pa.array(nearest.to_pylist(), pa.string(), mask=best < 0))
        columns.append(np.asarray(workspace.load("density"))[image])
        if self.target:
            columns.append(np.asarray(workspace.load("near_target"))[image])
        return pa.table(columns, schema=self.writes())

    # -- phases ---------------------------------------------------------------------------------

    def _vectors(self, workspace: Workspace, part: int) -> None:
        """Unit vectors of a part's images, float16."""
        table = workspace.rows(part, self.reads())
        ids, rows, image = distinct_images(table["image_id"])
        column = table[self.embedding].combine_chunks()
        width = column.type.list_size
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)[rows]
        preferred = best_of_rows(table, self.prefer, image, len(rows))
        save: dict[str, NDArray[Any]] = {
            "row_image": image, "ids": ids, "preferred": preferred,
            "vectors": unit(values).astype(np.float16),
        }  # fmt: skip
        for name, array in save.items():
            workspace.save(f"vectors/{part:06d}.{name}", array)

    def _centroids(self, workspace: Workspace, _: int) -> None:
        """All images' order of preference, and centroids learnt from a sample of them."""
        parts = range(workspace.parts)
        ids = np.concatenate([workspace.load(f"vectors/{part:06d}.ids") for part in parts])
        counts = [len(workspace.load(f"vectors/{part:06d}.ids")) for part in parts]
        workspace.save("starts", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        workspace.save("ids", ids)
        preferred = np.concatenate(
            [workspace.load(f"vectors/{part:06d}.preferred") for part in parts]
        )
        rank = np.empty(len(ids), np.int64)
        rank[np.lexsort(preference(ids, preferred))] = np.arange(len(ids))
        workspace.save("rank", rank)
        luck = _luck(ids, self.seed)
        workspace.save("luck", luck)
        clusters = self.clusters or max(1, min(_MOST_CLUSTERS, len(ids) // _CLUSTER_IMAGES))
        clusters = max(1, min(clusters, len(ids)))
        # Chosen and ordered by digest, so that parts do not matter.
        chosen = np.lexsort((ids[:, 1], ids[:, 0], luck))[: self.sample * clusters]
        vectors = Vectors(workspace, "vectors").take(chosen)
        found = learn_centroids(vectors, clusters, self) if len(vectors) else vectors
        workspace.save("centroids", found)

    def _assign(self, workspace: Workspace, part: int) -> None:
        """The nearest clusters of each image, nearest first."""
        vectors = np.asarray(workspace.load(f"vectors/{part:06d}.vectors"), np.float32)
        centroids = np.asarray(workspace.load("centroids"))
        probes = max(1, min(self.probes, len(centroids)))
        similarity, cluster = nearest(vectors, centroids, probes, self.threads)
        workspace.save(f"assigned/{part:06d}.probes", cluster.astype(np.int32))
        workspace.save(f"assigned/{part:06d}.similarity", similarity[:, :1].astype(np.float32))

    def _members(self, workspace: Workspace, _: int) -> None:
        """Images by cluster: those in it, and those that look for neighbours in it."""
        parts = range(workspace.parts)
        probes = np.concatenate([workspace.load(f"assigned/{part:06d}.probes") for part in parts])
        similarity = np.concatenate(
            [workspace.load(f"assigned/{part:06d}.similarity") for part in parts]
        )
        clusters = len(workspace.load("centroids"))
        workspace.save("cluster", probes[:, 0].astype(np.int32))
        workspace.save("centroid_similarity", similarity[:, 0].round(5))
        members, member_ends = _by_cluster(probes[:, 0], np.arange(len(probes)), clusters)
        images = np.repeat(np.arange(len(probes)), probes.shape[1])
        seekers, seeker_ends = _by_cluster(probes.reshape(-1), images, clusters)
        workspace.save("members", members)
        workspace.save("member_ends", member_ends)
        workspace.save("seekers", seekers)
        workspace.save("seeker_ends", seeker_ends)
        cost = np.diff(member_ends, prepend=0) * np.diff(seeker_ends, prepend=0)
        # Each task is a run of clusters: borders where the sum of costs passes a task's share.
        task = np.cumsum(cost) // _TASK_PAIRS
        borders = np.flatnonzero(np.diff(task)) + 1
        workspace.save("tasks", np.concatenate([[0], borders, [clusters]]).astype(np.int64))

    def _neighbours(self, workspace: Workspace, index: int) -> None:
        """For the seekers of some clusters: the nearest member that is preferred to them."""
        first, last = (int(border) for border in workspace.load("tasks")[index : index + 2])
        vectors, rank = Vectors(workspace, "vectors"), np.asarray(workspace.load("rank"))
        saved = []
        for cluster in range(first, last):
            members = _slice(workspace, "member", cluster)
            seekers = _slice(workspace, "seeker", cluster)
            if len(members) and len(seekers):
                saved.append((seekers, *_best_before(vectors, rank, members, seekers)))
        joined = [np.concatenate(column) for column in zip(*saved, strict=True)] or [
            np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64),
        ]  # fmt: skip
        for name, array in zip(("seekers", "similarity", "nearest"), joined, strict=True):
            workspace.save(f"neighbours/{index:06d}.{name}", array)

    def _facts(self, workspace: Workspace, _: int) -> None:
        """The best over all probes, places in clusters, and density."""
        ids, rank = workspace.load("ids"), np.asarray(workspace.load("rank"))
        count = len(ids)
        tasks = range(len(workspace.load("tasks")) - 1)
        seekers, similarity, near = (
            np.concatenate([workspace.load(f"neighbours/{i:06d}.{name}") for i in tasks])
            for name in ("seekers", "similarity", "nearest")
        )
        # The highest cosine last; between equals, the preferred.
        order = np.lexsort((-rank[np.maximum(near, 0)], similarity, seekers))
        final = order[np.flatnonzero(np.diff(seekers[order], append=-1))]
        found, best = np.full(count, -1, np.float32), np.full(count, -1, np.int64)
        found[seekers[final]] = similarity[final].round(5)
        best[seekers[final]] = near[final]
        workspace.save("found", found)
        workspace.save("nearest", best)
        cluster = np.asarray(workspace.load("cluster"))
        centroids = np.asarray(workspace.load("centroids"))
        size = np.bincount(cluster, minlength=len(centroids))
        workspace.save("cluster_size", size[cluster].astype(np.int32))
        luck = np.asarray(workspace.load("luck"))
        place = places(cluster, [ids[:, 1], ids[:, 0], luck])
        workspace.save("cluster_rank", place.astype(np.int32))
        to_centroid = np.asarray(workspace.load("centroid_similarity"))
        density = density_shares(cluster, to_centroid, centroids, self.temperature, np.asarray(ids))
        workspace.save("density", density)
        if self.target:
            wanted = np.asarray(np.load(self.target, allow_pickle=False), np.float32)
            if wanted.shape[1] != centroids.shape[1]:
                raise ConfigurationError(
                    f"{self.target} has embeddings of {wanted.shape[1]} values, "
                    f"{self.embedding} has {centroids.shape[1]}; use the same encoder"
                )
            near_ones = nearest(unit(wanted), centroids, 1, self.threads)[1]
            workspace.save("near_target", np.isin(cluster, near_ones))


class Vectors:
    """Saved vectors of all parts' images, memory-mapped; only what is asked for is read."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.starts = np.asarray(workspace.load("starts"))
        self.parts = [
            workspace.load(f"{name}/{part:06d}.vectors") for part in range(workspace.parts)
        ]

    def take(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of the images, [n, width] float32."""
        width = self.parts[0].shape[1]
        found = np.empty((len(images), width), np.float32)
        part = np.searchsorted(self.starts, images, side="right") - 1
        for number in np.unique(part):
            rows = np.flatnonzero(part == number)
            found[rows] = self.parts[number][images[rows] - self.starts[number]]
        return found


def unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """Rows at length 1; a row of zeros, or with a value that is no number, is left at zero."""
    rows = np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def learn_centroids(
    vectors: NDArray[np.float32], clusters: int, stage: SemanticClusters
) -> NDArray[np.float32]:
    """Spherical k-means of unit vectors, [clusters, width]; the same on every run."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(stage.threads)
    try:
        kmeans = faiss.Kmeans(
            vectors.shape[1], clusters, niter=stage.iterations, seed=stage.seed + 1,
            spherical=True, min_points_per_centroid=1, max_points_per_centroid=stage.sample,
        )  # fmt: skip
        kmeans.train(np.ascontiguousarray(vectors))
        return np.asarray(kmeans.centroids, np.float32).reshape(clusters, -1)
    finally:
        faiss.omp_set_num_threads(before)


def nearest(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], count: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and numbers [n, count] of the nearest centroids, nearest first."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        index = faiss.IndexFlatIP(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, np.float32))
        similarity, found = index.search(np.ascontiguousarray(vectors, np.float32), count)
        return similarity, found
    finally:
        faiss.omp_set_num_threads(before)


def _luck(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A random number for each image that depends on nothing but its digest and the seed."""
    return np.array([xxhash.xxh3_64_intdigest(row.tobytes(), seed=seed) for row in ids], np.uint64)


def _by_cluster(
    cluster: NDArray[Any], images: NDArray[np.int64], clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images sorted by cluster, and where each cluster ends."""
    order = np.argsort(cluster, kind="stable")
    return images[order], np.cumsum(np.bincount(cluster, minlength=clusters)).astype(np.int64)


def _slice(workspace: Workspace, kind: str, cluster: int) -> NDArray[np.int64]:
    ends = workspace.load(f"{kind}_ends")
    start = int(ends[cluster - 1]) if cluster else 0
    return np.asarray(workspace.load(f"{kind}s")[start : int(ends[cluster])])


def _best_before(
    vectors: Vectors,
    rank: NDArray[np.int64],
    members: NDArray[np.int64],
    seekers: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each seeker, the highest cosine to a member of lower rank, and that member; -1, -1."""
    best = np.full(len(seekers), -1, np.float32)
    which = np.full(len(seekers), -1, np.int64)
    # Members in the order of preference: the first of equals is the preferred.
    members = members[np.argsort(rank[members], kind="stable")]
    for low in range(0, len(members), _TILE):
        there = members[low : low + _TILE]
        values = vectors.take(there)
        for start in range(0, len(seekers), _TILE):
            rows = slice(start, start + _TILE)
            cosine = vectors.take(seekers[rows]) @ values.T
            cosine[rank[there][None] >= rank[seekers[rows]][:, None]] = -1
            column = cosine.argmax(axis=1)
            value = cosine[np.arange(len(column)), column]
            better = value > best[rows]
            best[rows] = np.where(better, value, best[rows])
            which[rows] = np.where(better, there[column], which[rows])
    return best, which


def density_shares(
    cluster: NDArray[Any],
    to_centroid: NDArray[np.float32],
    centroids: NDArray[np.float32],
    temperature: float,
    ids: NDArray[np.uint64],
) -> NDArray[np.float32]:
    """The smallest share of the corpus in which each image is kept, [n].

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
        similarity, _ = nearest(centroids, centroids, min(_NEIGHBOURS + 1, len(centroids)), 1)
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
