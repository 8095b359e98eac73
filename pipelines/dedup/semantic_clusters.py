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
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.cluster_facts import (
    best_before,
    by_cluster,
    density_shares,
    random_keys,
)
from gristmill.pipelines.dedup.connected_components import places
from gristmill.pipelines.dedup.image_ids import (
    best_of_rows,
    distinct_images,
    hex_digests,
    preference,
)
from gristmill.pipelines.dedup.kmeans import learn_centroids, most_similar, unit
from gristmill.pipelines.dedup.part_arrays import (
    NO_DIGESTS,
    NO_NUMBERS,
    PartArrays,
    PartRows,
    of_new_parts,
    rows_of_parts,
)
from gristmill.pipelines.dedup.standing import Standing
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

# Images for each cluster when their number is not given, and the most of them.
_CLUSTER_IMAGES, _MOST_CLUSTERS = 1000, 50_000
# A task of the search compares about this many pairs.
_TASK_PAIRS = 2_000_000_000


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
            Phase(name="vectors", count=lambda w: w.parts, work=of_new_parts(self._vectors)),
            Phase(name="centroids", count=lambda _: 1, work=self._centroids),
            Phase(name="assign", count=lambda w: w.parts, work=of_new_parts(self._assign)),
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
        found = workspace.load_part("decided", part)
        columns: list[pa.Array | NDArray[np.generic]] = [
            found[name]
            for name in ("cluster", "cluster_size", "cluster_rank", "centroid_similarity", "found")
        ]
        nearest = hex_digests(found["nearest"])
        columns.append(pc.if_else(pa.array(found["has_nearest"]), nearest, None))
        columns.append(found["density"])
        if self.target:
            columns.append(found["near_target"])
        return pa.table(columns, schema=self.writes())

    # -- phases ---------------------------------------------------------------------------------

    def _vectors(self, workspace: Workspace, part: int) -> None:
        """Unit vectors of a part's images, float16."""
        table = workspace.rows(part, self.reads())
        ids, rows, image = distinct_images(table["image_id"])
        column = table[self.embedding].combine_chunks()
        width = column.type.list_size
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)[rows]
        PartArrays(workspace, "vectors").save(
            part,
            vectors=unit(values).astype(np.float16),
        )
        PartArrays(workspace, "images").save(
            part,
            row_image=image.astype(np.int64),
            ids=ids,
            preferred=best_of_rows(table, self.prefer, image, len(rows)),
        )

    def _centroids(self, workspace: Workspace, _: int) -> None:
        """All images' order of preference, and centroids learnt from a sample of them; for a list
        that was added they are those of the first."""
        preferred = np.zeros((0, len(self.prefer)))
        saved = PartArrays(workspace, "images").join(
            row_image=NO_NUMBERS, ids=NO_DIGESTS, preferred=preferred
        )
        workspace.save("starts", saved.starts["ids"])
        row_starts, row_image = saved.starts["row_image"], saved.numbered("row_image", "ids")
        workspace.save("row_starts", row_starts)
        workspace.save("row_image", row_image)
        ids, preferred = saved["ids"], saved["preferred"]
        workspace.save("ids", ids)
        stands = Standing(workspace, row_starts, row_image, len(ids)).rank
        workspace.save("standing", stands)
        rank = np.empty(len(ids), np.int64)
        rank[np.lexsort([*preference(ids, preferred), stands])] = np.arange(len(ids))
        workspace.save("rank", rank)
        keys = random_keys(ids, self.seed)
        workspace.save("luck", keys)
        learnt = workspace.before.load("centroids") if workspace.before else NO_DIGESTS
        if len(learnt):
            workspace.save("centroids", np.asarray(learnt))
            return
        clusters = self.clusters or max(1, min(_MOST_CLUSTERS, len(ids) // _CLUSTER_IMAGES))
        clusters = max(1, min(clusters, len(ids)))
        # Chosen and ordered by digest, so that parts do not matter.
        chosen = np.lexsort((ids[:, 1], ids[:, 0], keys))[: self.sample * clusters]
        vectors = _all_vectors(workspace).take(chosen).astype(np.float32)
        if len(vectors):
            vectors = learn_centroids(
                vectors, clusters, iterations=self.iterations, sample=self.sample, seed=self.seed,
                threads=self.threads, spherical=True,
            )  # fmt: skip
        workspace.save("centroids", vectors)

    def _assign(self, workspace: Workspace, part: int) -> None:
        """The nearest clusters of each image, nearest first."""
        vectors = PartArrays(workspace, "vectors").load(part, "vectors", np.float16)
        centroids = np.asarray(workspace.load("centroids"))
        probes = max(1, min(self.probes, len(centroids)))
        similarity, cluster = most_similar(
            vectors.astype(np.float32), centroids, probes, self.threads
        )
        PartArrays(workspace, "assigned").save(
            part,
            probes=cluster.astype(np.int32),
            similarity=similarity[:, :1].astype(np.float32),
        )

    def _members(self, workspace: Workspace, _: int) -> None:
        """Images by cluster: those in it, and those that look for neighbours in it."""
        clusters = len(workspace.load("centroids"))
        assigned = PartArrays(workspace, "assigned").join(
            probes=np.zeros((0, max(1, min(self.probes, clusters))), np.int32),
            similarity=np.zeros((0, 1), np.float32),
        )
        probes, similarity = assigned["probes"], assigned["similarity"]
        workspace.save("cluster", probes[:, 0].astype(np.int32))
        workspace.save("centroid_similarity", similarity[:, 0].round(5))
        members, member_ends = by_cluster(probes[:, 0], np.arange(len(probes)), clusters)
        images = np.repeat(np.arange(len(probes)), probes.shape[1])
        queries, query_ends = by_cluster(probes.reshape(-1), images, clusters)
        workspace.save("members", members)
        workspace.save("member_ends", member_ends)
        workspace.save("seekers", queries)
        workspace.save("seeker_ends", query_ends)
        cost = np.diff(member_ends, prepend=0) * np.diff(query_ends, prepend=0)
        # Each task is a run of clusters: borders where the sum of costs passes a task's share.
        task = np.cumsum(cost) // _TASK_PAIRS
        borders = np.flatnonzero(np.diff(task)) + 1
        workspace.save("tasks", np.concatenate([[0], borders, [clusters]]).astype(np.int64))

    def _neighbours(self, workspace: Workspace, index: int) -> None:
        """For the queries of some clusters: the nearest member that is preferred to them."""
        first, last = (int(border) for border in workspace.load("tasks")[index : index + 2])
        vectors, rank = _all_vectors(workspace), np.asarray(workspace.load("rank"))
        asked, cosines, nearest = [NO_NUMBERS], [np.zeros(0, np.float32)], [NO_NUMBERS]
        for cluster in range(first, last):
            members = _slice(workspace, "member", cluster)
            queries = _slice(workspace, "seeker", cluster)
            if len(members) and len(queries):
                cosine, which = best_before(vectors, rank, members, queries)
                asked.append(queries)
                cosines.append(cosine)
                nearest.append(which)
        PartArrays(workspace, "neighbours").save(
            index,
            seekers=np.concatenate(asked),
            similarity=np.concatenate(cosines),
            nearest=np.concatenate(nearest),
        )

    def _facts(self, workspace: Workspace, _: int) -> None:
        """The best over all probes, places in clusters, and density."""
        ids = np.asarray(workspace.load("ids"))
        found, best = self._nearest(workspace, len(ids))
        cluster = np.asarray(workspace.load("cluster"))
        centroids = np.asarray(workspace.load("centroids"))
        size = np.bincount(cluster, minlength=len(centroids))
        luck, stands = np.asarray(workspace.load("luck")), np.asarray(workspace.load("standing"))
        place = places(cluster, [ids[:, 1], ids[:, 0], luck, stands])
        to_centroid = np.asarray(workspace.load("centroid_similarity"))
        density = density_shares(cluster, to_centroid, centroids, self.temperature, ids)
        facts = {
            "cluster": cluster,
            "cluster_size": size[cluster].astype(np.int32),
            "cluster_rank": place.astype(np.int32),
            "centroid_similarity": to_centroid,
            "found": found,
            "has_nearest": best >= 0,
            "nearest": ids[np.maximum(best, 0)],
            "density": density,
        }
        if self.target:
            wanted = np.asarray(np.load(self.target, allow_pickle=False), np.float32)
            if wanted.shape[1] != centroids.shape[1]:
                raise ConfigurationError(
                    f"{self.target} has embeddings of {wanted.shape[1]} values, "
                    f"{self.embedding} has {centroids.shape[1]}; use the same encoder"
                )
            near_ones = most_similar(unit(wanted), centroids, 1, self.threads)[1]
            facts["near_target"] = np.isin(cluster, near_ones)
        of_rows = rows_of_parts(workspace.load("row_starts"), workspace.load("row_image"), **facts)
        workspace.save_parts("decided", of_rows)

    def _nearest(
        self, workspace: Workspace, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Of all clusters in which an image looked: the cosine of its nearest better image, and
        which that is; -1 for none."""
        found_by = PartArrays(workspace, "neighbours", len(workspace.load("tasks")) - 1).join(
            seekers=NO_NUMBERS, similarity=np.zeros(0, np.float32), nearest=NO_NUMBERS
        )
        queries, near = found_by["seekers"], found_by["nearest"]
        similarity = found_by["similarity"]
        rank = np.asarray(workspace.load("rank"))
        # The highest cosine last; between equals, the preferred.
        order = np.lexsort((-rank[np.maximum(near, 0)], similarity, queries))
        final = order[np.flatnonzero(np.diff(queries[order], append=-1))]
        found, best = np.full(count, -1, np.float32), np.full(count, -1, np.int64)
        found[queries[final]] = similarity[final].round(5)
        best[queries[final]] = near[final]
        return found, best


def _all_vectors(workspace: Workspace) -> PartRows[np.float16]:
    """Unit vectors [width] of all images."""
    starts = np.asarray(workspace.load("starts"))
    return PartArrays(workspace, "vectors").rows(starts, "vectors", np.float16)


def _slice(workspace: Workspace, kind: str, cluster: int) -> NDArray[np.int64]:
    """The members or seekers of one cluster, as numbers of images."""
    ends = workspace.load(f"{kind}_ends")
    start = int(ends[cluster - 1]) if cluster else 0
    return np.asarray(workspace.load(f"{kind}s")[start : int(ends[cluster])])
