"""Duplicates over the whole corpus: equal bytes, equal pixels, near copies; one of each stays.

Duplicates are over images: rows that share an `image_id` are captions of one image and never
duplicates of each other. Near copies are pairs of hashes within a Hamming radius, verified on a
small colour thumbnail, because pictures with little in them collide under a 64-bit hash.
Components over all three kinds of edges each keep one survivor, chosen by what the images are,
not by where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.connected_components import Edges, components, equal_rows, leaders
from gristmill.pipelines.dedup.duplicate_columns import (
    DUPLICATE_GROUP,
    DUPLICATE_GROUP_SIZE,
    DUPLICATE_OF,
    duplicate_facts,
)
from gristmill.pipelines.dedup.hamming import close_pairs, plan_groups
from gristmill.pipelines.dedup.image_ids import (
    best_of_rows,
    digests,
    distinct_images,
    hex_digests,
    preference,
    received_area,
)
from gristmill.pipelines.dedup.part_arrays import (
    NO_DIGESTS,
    NO_NUMBERS,
    NO_PAIRS,
    PARTS_A_TASK,
    PartArrays,
    PartRows,
    count_together,
    of_new_parts,
    parts_together,
    rows_of_parts,
)
from gristmill.pipelines.dedup.standing import Standing
from gristmill.pipelines.images.perceptual_hash import THUMBNAIL_BYTES
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

_KINDS = ("bytes", "pixels", "near")
# A thumbnail with less contrast than this (grey levels) is compared as if it had this much, so that
# the noise of empty pictures is not blown up.
_LEAST_CONTRAST = 6.0
# Pairs of thumbnails compared at a time: 60 MB of them as floats.
_COMPARED = 20_000


@dataclass(frozen=True, kw_only=True)
class Duplicates(Global):
    """Name, for every image that is a copy, the image that stays.

    The survivor of a component has the most pixels as received, then the best `prefer` columns,
    then the lowest image_id; one that was kept before the others were added comes first of all. A
    copy of a copy counts: components are single-link, which is why
    `radius` and `thumbnail_tolerance` are set for precision.
    """

    libraries: ClassVar[tuple[str, ...]] = ("scipy",)

    # Equal bytes make copies.
    exact_bytes: bool = True
    # Equal pixels make copies.
    exact_pixels: bool = True
    # Near hashes and thumbnails make copies.
    near: bool = True
    # Bits by which the hashes of near copies may differ.
    radius: int = setting(8, unit="bits", low=0, high=64)
    # Mean absolute difference of two thumbnails after each is brought to zero mean and unit
    # contrast; 0 is equal, unrelated pictures lie around 1.
    thumbnail_tolerance: float = setting(0.25, low=0)
    # Columns that decide between copies of the same size, higher is better.
    prefer: tuple[str, ...] = ("clip_score",)

    def reads(self) -> tuple[str, ...]:
        """Digests, hash, thumbnail, size, and what is preferred."""
        base = ("image_id", "sha256", "pixel_hash", "phash", "thumbnail")
        return (*base, "original_width", "original_height", *self.prefer)

    def writes(self) -> pa.Schema:
        """Null for images that stay, but for the group and its size."""
        return pa.schema(
            [
                DUPLICATE_OF,
                pa.field("duplicate_kind", pa.string()),
                DUPLICATE_GROUP,
                DUPLICATE_GROUP_SIZE,
                pa.field("duplicate_distance", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            **duplicate_facts("image"),
            "duplicate_kind": ColumnFacts("By what it is a copy: bytes, pixels or near."),
            "duplicate_distance": ColumnFacts(
                "Bits by which the hash differs from the survivor's.", "bits", low=0, high=64
            ),
        }

    def needs(self) -> Needs:
        """Arrays of one band."""
        return Needs(memory_gb=2.0)

    def check(self) -> None:
        """Validate the radius and the tolerance."""
        if not 0 <= self.radius <= 16:
            raise ConfigurationError(f"radius is {self.radius}; it lies between 0 and 16 bits")
        if self.thumbnail_tolerance < 0:
            raise ConfigurationError(f"thumbnail_tolerance is {self.thumbnail_tolerance} < 0")

    def phases(self) -> tuple[Phase, ...]:
        """Signatures, images, candidate pairs by band, components with winners."""
        return (
            Phase(
                name="signatures",
                count=count_together,
                work=of_new_parts(self._signatures, PARTS_A_TASK),
            ),
            Phase(name="images", count=lambda _: 1, work=self._images),
            Phase(name="candidates", count=self._count_tasks, work=self._candidates),
            Phase(name="winners", count=lambda _: 1, work=self._winners),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """What was decided, for each row of a part."""
        found = workspace.load_part("decided", part)
        group, copy = hex_digests(found["group"]), pa.array(found["is_copy"])
        survivor = hex_digests(found["survivor"])
        kinds = pa.array(_KINDS).take(pa.array(found["kind"]))
        return pa.table(
            [
                pc.if_else(copy, survivor, None),
                pc.if_else(copy, kinds, None),
                group,
                pa.array(found["size"]),
                pc.if_else(copy, pa.array(found["distance"]), None),
            ],
            schema=self.writes(),
        )

    # -- phases ---------------------------------------------------------------------------------

    def _signatures(self, workspace: Workspace, task: int) -> None:
        """Arrays of the images of some parts."""
        thumbnails: list[Mapping[str, NDArray[np.uint8]]] = []
        parts = parts_together(workspace, task)
        signed = (self._signed(workspace, part, thumbnails) for part in parts)
        PartArrays(workspace, "signatures").save_together(task, signed)
        PartArrays(workspace, "thumbnails").save_together(task, thumbnails)

    def _signed(
        self, workspace: Workspace, part: int, kept: list[Mapping[str, NDArray[np.uint8]]]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Arrays of a part's images; captions of one image are one image. Its thumbnails, which are
        looked at alone, are added to `kept`."""
        table = workspace.rows(part, self.reads())
        ids, rows, image = distinct_images(table["image_id"])
        chosen = table.take(pa.array(rows))
        thumbnails = _thumbnails(chosen["thumbnail"])
        looks = [xxhash.xxh3_64_intdigest(row.data) for row in thumbnails]
        kept.append({"thumbnails": thumbnails})
        return {
            "row_image": image.astype(np.int64),
            "ids": ids,
            "sha256": digests(chosen["sha256"]),
            "pixel_hash": digests(chosen["pixel_hash"]),
            "hashes": chosen["phash"].to_numpy().astype(np.uint64),
            "looks": np.array(looks, np.uint64),
            "area": received_area(chosen),
            "preferred": best_of_rows(table, self.prefer, image, len(rows)),
        }

    def _images(self, workspace: Workspace, task: int) -> None:
        """All parts' images in one array of each fact; thumbnails stay where they are."""
        saved = PartArrays(workspace, "signatures", together=PARTS_A_TASK).join(
            row_image=NO_NUMBERS,
            **dict.fromkeys(("ids", "sha256", "pixel_hash"), NO_DIGESTS),
            **dict.fromkeys(("hashes", "looks"), np.zeros(0, np.uint64)),
            area=NO_NUMBERS,
            preferred=np.zeros((0, len(self.prefer))),
        )
        workspace.save("starts", saved.starts["ids"])
        workspace.save("row_starts", saved.starts["row_image"])
        workspace.save("row_image", saved.numbered("row_image", "ids"))
        for name in ("ids", "sha256", "pixel_hash", "hashes", "looks", "area", "preferred"):
            workspace.save(name, saved[name])
        # Pictures that look exactly alike are searched for once.
        hashes, looks = saved["hashes"], saved["looks"]
        _, distinct = np.unique(np.stack([hashes, looks], axis=1), axis=0, return_index=True)
        workspace.save("distinct", np.sort(distinct).astype(np.int64))

    def _count_tasks(self, workspace: Workspace) -> int:
        if not self.near:
            return 0
        return len(plan_groups(len(workspace.load("distinct")), self.radius))

    def _candidates(self, workspace: Workspace, index: int) -> None:
        """Verified near pairs of a group of band slices, thinned to what the components need."""
        distinct = workspace.load("distinct")
        hashes = np.ascontiguousarray(workspace.load("hashes")[distinct])
        tasks = plan_groups(len(distinct), self.radius)[index]
        starts = np.asarray(workspace.load("starts"))
        saved = PartArrays(workspace, "thumbnails", together=PARTS_A_TASK)
        thumbnails = saved.rows(starts, "thumbnails", np.uint8)
        edges = Edges()
        for task in tasks:
            for pairs in close_pairs(hashes, self.radius, task):
                images = distinct[pairs]
                alike = _distances(thumbnails, images) <= self.thumbnail_tolerance
                edges.add(images[alike])
        PartArrays(workspace, "edges").save(index, edges=edges.forest())

    def _winners(self, workspace: Workspace, _: int) -> None:
        """Components over all edges, and the survivor of each."""
        ids = workspace.load("ids")
        n = len(ids)
        sha256, pixel_hash = workspace.load("sha256"), workspace.load("pixel_hash")
        hashes = workspace.load("hashes")
        tasks = self._count_tasks(workspace)
        edges = [*PartArrays(workspace, "edges", tasks).each("edges", np.int64)]
        if self.exact_bytes:
            edges.append(equal_rows(sha256))
        if self.exact_pixels:
            edges.append(equal_rows(pixel_hash))
        if self.near:
            looks = np.stack([hashes, workspace.load("looks")], axis=1)
            edges.append(equal_rows(looks))
        if workspace.first_part:
            # Captions of one image that came with several lists.
            edges.append(equal_rows(ids))
        label = components(np.concatenate([NO_PAIRS, *edges]), n)
        keys = preference(np.asarray(ids), np.asarray(workspace.load("preferred")))
        row_starts, row_image = workspace.load("row_starts"), workspace.load("row_image")
        stands = Standing(workspace, row_starts, row_image, n)
        area = -np.asarray(workspace.load("area"))
        survivor, size = leaders(label, [*keys, area, stands.rank])
        # Not copies of each other, whichever lists they came with.
        same_image = (ids == ids[survivor]).all(axis=1) & (workspace.first_part > 0)
        same_bytes = (sha256 == sha256[survivor]).all(axis=1)
        same_pixels = (pixel_hash == pixel_hash[survivor]).all(axis=1)
        kind = np.where(same_bytes, 0, np.where(same_pixels, 1, 2)).astype(np.int8)
        decided = rows_of_parts(
            row_starts,
            row_image,
            group=stands.digests("duplicate_group", ids)[survivor],
            survivor=ids[survivor],
            is_copy=(survivor != np.arange(n)) & ~same_image,
            kind=kind,
            size=size.astype(np.int32),
            distance=np.bitwise_count(hashes ^ hashes[survivor]).astype(np.int32),
        )
        workspace.save_parts("decided", decided)


def _distances(thumbnails: PartRows[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """`thumbnail_distance` [n] of the images of pairs [n, 2]; only their thumbnails are read, some
    at a time."""
    pieces = [np.zeros(0, np.float32)]
    for low in range(0, len(pairs), _COMPARED):
        some = pairs[low : low + _COMPARED]
        pieces.append(thumbnail_distance(thumbnails.take(some[:, 0]), thumbnails.take(some[:, 1])))
    return np.concatenate(pieces)


def thumbnail_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean absolute difference of thumbnails [n, 768], each at zero mean and unit contrast.

    Brightness and contrast drop out; where things are, and their colours, remain.
    """
    difference = np.abs(_normal(a) - _normal(b)).mean(axis=1)
    return np.asarray(difference, np.float32)


def _normal(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    contrast = values.std(axis=1, keepdims=True)
    return np.asarray(values / np.maximum(contrast, _LEAST_CONTRAST), np.float32)


def _thumbnails(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    data = b"".join(column.to_pylist())
    return np.frombuffer(data, np.uint8).reshape(-1, THUMBNAIL_BYTES)
