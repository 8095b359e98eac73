"""Copies that a perceptual hash does not see: flipped, cropped, overlaid, turned.

Pictures that share rare visual words (Sivic & Zisserman 2003) are candidates; a pair is a copy when
enough keypoints fit one shift, turn and scale, of the picture or of its mirror image. The same test
is put to the pairs that a `Duplicates` node above found by their hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.connected_components import components, equal_rows, leaders
from gristmill.pipelines.dedup.duplicate_columns import group_size_facts
from gristmill.pipelines.dedup.image_ids import (
    best_of_rows,
    digests,
    distinct_images,
    hex_digests,
    preference,
    received_area,
)
from gristmill.pipelines.dedup.kmeans import learn_centroids, nearest_centroid
from gristmill.pipelines.dedup.part_arrays import (
    NO_DIGESTS,
    NO_NUMBERS,
    PartArrays,
    of_new_parts,
    rows_of_parts,
)
from gristmill.pipelines.dedup.standing import Standing
from gristmill.pipelines.dedup.visual_words import SparseRows, bags_of_words, likeliest
from gristmill.pipelines.images.local_features import DESCRIPTOR, POINT, matching_points, mirrored
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

# Descriptors for each visual word, and the most and fewest words.
_WORD_DESCRIPTORS, _MOST_WORDS, _FEWEST_WORDS = 50, 65_536, 64
# Descriptors from which words are learnt, for each word.
_SAMPLE = 40


@dataclass(frozen=True, kw_only=True)
class RobustCopies(Global):
    """The picture that an image is a copy of, by its local features (`LocalFeatures`)."""

    libraries: ClassVar[tuple[str, ...]] = ("faiss-cpu", "opencv-python-headless", "scipy")

    # False leaves the node out.
    enabled: bool = True
    # Keypoints at different places that must fit.
    least_points: int = setting(7, unit="keypoints", low=1)
    # Share of the keypoints' area of one of the two pictures that they must cover, so that pictures
    # with the same logo or banner are no copies.
    least_area: float = setting(0.4, low=0, high=1)
    # Pictures that are compared with each, the likeliest.
    candidates: int = setting(12, unit="pictures", low=1)
    # Visual words; 0: one for each fifty descriptors.
    words: int = setting(0, low=0)
    # Of k-means, for the visual words.
    iterations: int = setting(8, low=1)
    # Columns that decide between copies of the same size, higher is better.
    prefer: tuple[str, ...] = ("clip_score",)
    # Of the sample and the first centroids.
    seed: int = 0
    # Of a worker; part of the result's last bits.
    threads: int = setting(2, low=1)

    def reads(self) -> tuple[str, ...]:
        """Features, size, what is preferred."""
        base = ("image_id", "local_count", "local_points", "local_descriptors")
        return (*base, "original_width", "original_height", *self.prefer)

    def resolve_columns(self, available: pa.Schema) -> tuple[str, ...]:
        """Also the hash's duplicates, where a node above finds them."""
        names = super().resolve_columns(available)
        return (*names, "duplicate_of") if "duplicate_of" in available.names else names

    def writes(self) -> pa.Schema:
        """Null for images that stay."""
        return pa.schema(
            [
                pa.field("copy_of", pa.string()),
                pa.field("copy_points", pa.int32()),
                pa.field("copy_mirrored", pa.bool_()),
                pa.field("copy_group_size", pa.int32()),
                pa.field("duplicate_points", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "copy_of": ColumnFacts(
                "image_id of the survivor; it has the most pixels, then the best `prefer`."
            ),
            "copy_points": ColumnFacts(
                "Keypoints that fit, with whichever copy fits best; null without one.",
                "keypoints",
                low=0,
            ),
            "copy_mirrored": ColumnFacts("Whether that copy is a mirror image."),
            "copy_group_size": group_size_facts("image"),
            "duplicate_points": ColumnFacts(
                "Keypoints that fit between the image and its `duplicate_of`; null without one.",
                "keypoints",
                low=0,
            ),
        }

    def needs(self) -> Needs:
        """Words of all images, features of some."""
        return Needs(cpus=float(self.threads), memory_gb=3.0)

    def is_disabled(self) -> bool:
        """Left out."""
        return not self.enabled

    def check(self) -> None:
        """Validate the numbers."""
        if self.least_points < 4 or min(self.candidates, self.iterations, self.threads) < 1:
            raise ConfigurationError(
                "least_points must be at least 4; candidates, iterations and threads at least 1"
            )

    def phases(self) -> tuple[Phase, ...]:
        """Features, words, words of images, their index, verified pairs, groups."""
        return (
            Phase(name="features", count=lambda w: w.parts, work=of_new_parts(self._features)),
            Phase(name="vocabulary", count=lambda _: 1, work=self._vocabulary),
            Phase(name="words", count=lambda w: w.parts, work=of_new_parts(self._words)),
            Phase(name="index", count=lambda _: 1, work=self._index),
            Phase(name="bags", count=lambda w: w.parts, work=self._bags),
            Phase(name="pairs", count=lambda w: w.parts, work=of_new_parts(self._pairs)),
            Phase(name="groups", count=lambda _: 1, work=self._groups),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """What was found, for the rows of a part."""
        found = workspace.load_part("decided", part)
        points, duplicate = found["points"], found["duplicate_points"]
        alone = points < 0
        return pa.table(
            [
                pc.if_else(pa.array(found["is_copy"]), hex_digests(found["survivor"]), None),
                pa.array(points, pa.int32(), mask=alone),
                pa.array(found["mirrored"], mask=alone),
                found["size"].astype(np.int32),
                pa.array(duplicate, pa.int32(), mask=duplicate < 0),
            ],
            schema=self.writes(),
        )

    # -- phases ---------------------------------------------------------------------------------

    def _features(self, workspace: Workspace, part: int) -> None:
        """Features of a part's images, each once."""
        names = self.resolve_columns(workspace.schema)
        table = workspace.rows(part, names)
        ids, rows, image = distinct_images(table["image_id"])
        chosen = table.take(pa.array(rows))
        count = chosen["local_points"].type.list_size // POINT
        duplicates = pa.chunked_array([pa.nulls(len(rows), pa.string())])
        PartArrays(workspace, "features").save(
            part,
            counts=chosen["local_count"].to_numpy().astype(np.int16),
            points=_values(chosen["local_points"]).reshape(-1, count, POINT),
            descriptors=_values(chosen["local_descriptors"]).reshape(-1, count, DESCRIPTOR),
        )
        PartArrays(workspace, "images").save(
            part,
            row_image=image.astype(np.int64),
            ids=ids,
            area=received_area(chosen),
            preferred=best_of_rows(table, self.prefer, image, len(rows)),
            duplicate_of=digests(chosen["duplicate_of"] if "duplicate_of" in names else duplicates),
        )

    def _vocabulary(self, workspace: Workspace, _: int) -> None:
        """Visual words, learnt from descriptors of images chosen by digest; for a list that was
        added they are those of the first."""
        saved = PartArrays(workspace, "images").join(row_image=NO_NUMBERS, ids=NO_DIGESTS)
        workspace.save("starts", saved.starts["ids"])
        workspace.save("row_starts", saved.starts["row_image"])
        workspace.save("row_image", saved.numbered("row_image", "ids"))
        ids = saved["ids"]
        workspace.save("ids", ids)
        learnt = np.asarray(workspace.before.load("words")) if workspace.before else NO_NUMBERS
        # Not so where nothing of it had a keypoint.
        if learnt.any():
            workspace.save("words", learnt)
            return
        counts = PartArrays(workspace, "features").each("counts", np.int16)
        total = sum(int(array.sum()) for array in counts)
        words = self.words or min(_MOST_WORDS, max(_FEWEST_WORDS, total // _WORD_DESCRIPTORS))
        words = max(1, min(words, total))
        features = Features(workspace)
        # The low digits of a digest are as good as chance, and the same whatever the parts.
        order = np.lexsort((ids[:, 0], ids[:, 1]))
        held, found = [], 0
        for image in order.tolist():
            if found >= _SAMPLE * words:
                break
            held.append(features.of(image)[1])
            found += len(held[-1])
        centroids = np.zeros((1, DESCRIPTOR), np.float32)
        if found:
            centroids = learn_centroids(
                np.concatenate(held).astype(np.float32), words, iterations=self.iterations,
                sample=_SAMPLE, seed=self.seed, threads=self.threads,
            )  # fmt: skip
        workspace.save("words", centroids)

    def _words(self, workspace: Workspace, part: int) -> None:
        """The word of each keypoint, as it is and in the mirror; -1 where there is none."""
        saved = PartArrays(workspace, "features")
        counts = saved.load(part, "counts", np.int16)
        descriptors = saved.load(part, "descriptors", np.uint8)
        centroids = np.asarray(workspace.load("words"))
        missing = np.arange(descriptors.shape[1])[None] >= counts[:, None]

        def words_of(values: NDArray[np.generic]) -> NDArray[np.int32]:
            flat = values.reshape(-1, DESCRIPTOR).astype(np.float32)
            nearest = nearest_centroid(flat, centroids, self.threads).reshape(missing.shape)
            return np.where(missing, -1, nearest).astype(np.int32)

        PartArrays(workspace, "words").save(
            part, plain=words_of(descriptors), mirror=words_of(mirrored(descriptors))
        )

    def _index(self, workspace: Workspace, _: int) -> None:
        """Weights of words: those that few images have say most (inverse document frequency)."""
        words = len(workspace.load("words"))
        frequency = np.zeros(words, np.int64)
        images = 0
        for plain in PartArrays(workspace, "words").each("plain", np.int32):
            images += len(plain)
            for row in plain:
                frequency[np.unique(row[row >= 0])] += 1
        weight = np.log((1 + images) / (1 + frequency)).astype(np.float32)
        # A word that a fiftieth of many images has finds nothing but texture.
        weight[frequency > max(50, images // 50)] = 0
        workspace.save("weight", weight)

    def _bags(self, workspace: Workspace, part: int) -> None:
        """A part's images by visual word, once for all the searches among them."""
        plain = PartArrays(workspace, "words").load(part, "plain", np.int32)
        bags = bags_of_words(plain, np.asarray(workspace.load("weight")))
        # Also of parts that were judged before: words weigh otherwise now.
        bags.turned().save(PartArrays(workspace, "bags", anew=True), part)

    def _pairs(self, workspace: Workspace, part: int) -> None:
        """Verified copies of a part's images among all, and of the pairs that hashes found."""
        weight = np.asarray(workspace.load("weight"))
        first = int(workspace.load("starts")[part])
        features = Features(workspace)
        bags = PartArrays(workspace, "bags", anew=True)
        inverted = [SparseRows.load(bags, other) for other in range(workspace.parts)]
        found: list[tuple[int, int, int, int]] = []
        for name, is_mirror in (("plain", False), ("mirror", True)):
            words = PartArrays(workspace, "words").load(part, name, np.int32)
            queries = bags_of_words(words, weight)
            for image, others in likeliest(queries, inverted, first, self.candidates):
                for other in others:
                    points = matching_points(
                        features.of(image),
                        features.of(other),
                        mirror=is_mirror,
                        least_area=self.least_area,
                    )
                    if points >= self.least_points:
                        found.append((image, other, points, int(is_mirror)))
        PartArrays(workspace, "pairs").save(
            part,
            pairs=np.array(found, np.int64).reshape(-1, 4),
            duplicates=self._duplicate_points(workspace, part, features),
        )

    def _duplicate_points(
        self, workspace: Workspace, part: int, features: Features
    ) -> NDArray[np.int64]:
        """How well the pairs fit that were found by their hashes; -1 for images without."""
        ids = np.asarray(workspace.load("ids"))
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        keys = _comparable(ids[order])
        wanted = PartArrays(workspace, "images").load(part, "duplicate_of", np.uint64)
        start = int(workspace.load("starts")[part])
        points = np.full(len(wanted), -1, np.int64)
        there = np.flatnonzero((wanted != 0).any(axis=1))
        places = np.searchsorted(keys, _comparable(wanted[there]))
        for row, at in zip(there.tolist(), places.tolist(), strict=True):
            if at < len(keys) and (ids[order[at]] == wanted[row]).all():
                points[row] = matching_points(
                    features.of(start + row), features.of(int(order[at])), mirror=False
                )
        return points

    def _groups(self, workspace: Workspace, _: int) -> None:
        """Components, their survivors, and the best evidence for each image."""
        ids = np.asarray(workspace.load("ids"))
        found = PartArrays(workspace, "pairs").join(
            pairs=np.zeros((0, 4), np.int64), duplicates=NO_NUMBERS
        )
        pairs, count = found["pairs"], len(ids)
        edges = [pairs[:, :2]]
        if workspace.first_part:
            # Captions of one image that came with several lists.
            edges.append(equal_rows(ids))
        group = components(np.concatenate(edges), count) if count else np.zeros(0, np.int32)
        saved = PartArrays(workspace, "images").join(
            area=NO_NUMBERS, preferred=np.zeros((0, len(self.prefer)))
        )
        row_starts, row_image = workspace.load("row_starts"), workspace.load("row_image")
        stands = Standing(workspace, row_starts, row_image, count).rank
        keys = [*preference(ids, saved["preferred"]), -saved["area"], stands]
        survivor, size = leaders(group, keys)
        same_image = (ids == ids[survivor]).all(axis=1) & (workspace.first_part > 0)
        points, is_mirror = np.full(count, -1, np.int64), np.zeros(count, bool)
        # Ascending evidence, so that the best is written last; a mirror only if it fits better.
        both = np.concatenate([pairs, pairs[:, [1, 0, 2, 3]]])
        for image, _other, fits, mirror in both[np.lexsort((-both[:, 3], both[:, 2]))].tolist():
            points[image], is_mirror[image] = fits, bool(mirror)
        decided = rows_of_parts(
            row_starts,
            row_image,
            survivor=ids[survivor],
            is_copy=(survivor != np.arange(count)) & ~same_image,
            size=size,
            points=points,
            mirrored=is_mirror,
            duplicate_points=found["duplicates"],
        )
        workspace.save_parts("decided", decided)


class Features:
    """Points and descriptors of any image, memory-mapped part by part."""

    def __init__(self, workspace: Workspace) -> None:
        starts, saved = np.asarray(workspace.load("starts")), PartArrays(workspace, "features")
        self._counts = saved.rows(starts, "counts", np.int16)
        self._points = saved.rows(starts, "points", np.float32)
        self._descriptors = saved.rows(starts, "descriptors", np.uint8)

    def of(self, image: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Points [n, 4] and descriptors [n, 128] of one image."""
        count = int(self._counts.one(image))
        return self._points.one(image)[:count], self._descriptors.one(image)[:count]


def _values(column: pa.ChunkedArray) -> NDArray[np.number]:
    """The values of a column of fixed-size lists, end to end."""
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))


def _comparable(ids: NDArray[np.uint64]) -> NDArray[np.object_]:
    """Digests [n, 2] as one comparable whole number each, [n]."""
    return np.array([(int(a) << 64) | int(b) for a, b in ids], object)
