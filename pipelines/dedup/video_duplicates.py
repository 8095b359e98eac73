"""Copies of clips over the whole corpus: trims, re-encodes, resizes, logos, grey versions.

Two clips overlap if, at one shift in time, frame after frame of the shorter looks like that of the
longer. Candidates are clips of which some frame's hash lies near one of the other's; the overlap is
then counted over all frames, so that one shared title card makes no copy.
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
    PARTS_A_TASK,
    PartArrays,
    count_together,
    of_new_parts,
    parts_together,
    rows_of_parts,
)
from gristmill.pipelines.dedup.standing import Standing
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

# Frames that must agree at least, whatever their share.
_LEAST_FRAMES = 4
# A frame is searched for if its hash differs from the one searched for before it by more bits.
_SAME_BITS = 3


@dataclass(frozen=True, kw_only=True)
class ClipDuplicates(Global):
    """Name, for every clip that is a copy or a part of another, the clip that stays.

    The survivor of a component is the longest, then the one of most pixels, then that with the best
    `prefer` columns, then the lowest digest; before all, one that was kept when others were added.
    """

    libraries: ClassVar[tuple[str, ...]] = ("scipy",)

    # Bits, coarse and fine, by which hashes of the same moment may differ.
    radius: int = setting(12, unit="bits", low=0, high=128)
    # Bits of the 64 coarse ones within which candidates are sought; lower is faster and misses
    # heavier changes.
    search_radius: int = setting(6, unit="bits", low=0, high=64)
    # Share of the shorter clip's frames that must agree.
    overlap: float = setting(0.6, low=0, high=1)
    # Columns that decide between copies of the same length and size, higher is better.
    prefer: tuple[str, ...] = ()

    def reads(self) -> tuple[str, ...]:
        """Hashes, what clip and video they are of, size, and what is preferred."""
        names = ("image_id", "parent_uid", "frame_hashes", "frame_details", "duration_s")
        return (*names, "original_width", "original_height", *self.prefer)

    def writes(self) -> pa.Schema:
        """Null for clips that stay, but for the group and its size."""
        return pa.schema(
            [
                DUPLICATE_OF,
                pa.field("duplicate_overlap", pa.float32()),
                DUPLICATE_GROUP,
                DUPLICATE_GROUP_SIZE,
                pa.field("split_group", pa.string()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            **duplicate_facts("clip"),
            "duplicate_overlap": ColumnFacts(
                "Share of the shorter's frames that agree, with the copy it is most alike.",
                low=0,
                high=1,
            ),
            "split_group": ColumnFacts(
                "Clips of one video, and copies of them, have it in common: never split them."
            ),
        }

    def needs(self) -> Needs:
        """Hashes of all clips."""
        return Needs(memory_gb=2.0)

    def check(self) -> None:
        """Validate the radii and the share."""
        if not 0 <= self.search_radius <= min(self.radius, 16) or self.radius > 40:
            raise ConfigurationError(
                f"search_radius is {self.search_radius} and radius {self.radius}; it needs "
                "0 <= search_radius <= radius, at most 16 and 40"
            )
        if not 0 < self.overlap <= 1:
            raise ConfigurationError(f"overlap is {self.overlap}; it lies in (0, 1]")

    def phases(self) -> tuple[Phase, ...]:
        """Signatures, clips, verified pairs by band, components with winners."""
        return (
            Phase(
                name="signatures",
                count=count_together,
                work=of_new_parts(self._signatures, PARTS_A_TASK),
            ),
            Phase(name="clips", count=lambda _: 1, work=self._clips),
            Phase(name="pairs", count=self._count_tasks, work=self._pairs),
            Phase(name="winners", count=lambda _: 1, work=self._winners),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """What was decided, for each row of a part."""
        found = workspace.load_part("decided", part)
        survivor, copy, overlap = hex_digests(found["survivor"]), found["is_copy"], found["overlap"]
        return pa.table(
            [
                pc.if_else(pa.array(copy), survivor, None),
                pc.if_else(pa.array(overlap > 0), pa.array(overlap), None),
                hex_digests(found["group"]),
                pa.array(found["size"]),
                hex_digests(found["family"]),
            ],
            schema=self.writes(),
        )

    # -- phases ---------------------------------------------------------------------------------

    def _signatures(self, workspace: Workspace, task: int) -> None:
        """Arrays of the clips of some parts."""
        signed = (self._signed(workspace, part) for part in parts_together(workspace, task))
        PartArrays(workspace, "signatures").save_together(task, signed)

    def _signed(self, workspace: Workspace, part: int) -> Mapping[str, NDArray[np.generic]]:
        """Arrays of a part's clips; captions of one clip are one clip."""
        table = workspace.rows(part, self.reads())
        ids, rows, clip = distinct_images(table["image_id"])
        chosen = table.take(pa.array(rows))
        lists = chosen["frame_hashes"].combine_chunks()
        details = chosen["frame_details"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0)
        return {
            "row_clip": clip.astype(np.int64),
            "ids": ids,
            "parents": digests(chosen["parent_uid"]),
            "hashes": pc.list_flatten(lists).to_numpy().astype(np.uint64),
            "details": pc.list_flatten(details).to_numpy().astype(np.uint64),
            "lengths": lengths.to_numpy().astype(np.int64),
            "duration": pc.fill_null(chosen["duration_s"], 0).to_numpy().astype(np.float64),
            "area": received_area(chosen),
            "preferred": best_of_rows(table, self.prefer, clip, len(rows)),
        }

    def _clips(self, workspace: Workspace, task: int) -> None:
        """All parts' clips in one array of each fact, and the frames that are searched for."""
        saved = PartArrays(workspace, "signatures", together=PARTS_A_TASK).join(
            **dict.fromkeys(("ids", "parents"), NO_DIGESTS),
            **dict.fromkeys(("hashes", "details"), np.zeros(0, np.uint64)),
            **dict.fromkeys(("row_clip", "lengths", "area"), NO_NUMBERS),
            duration=np.zeros(0),
            preferred=np.zeros((0, len(self.prefer))),
        )
        workspace.save("row_starts", saved.starts["row_clip"])
        workspace.save("row_clip", saved.numbered("row_clip", "ids"))
        for name in ("ids", "parents", "hashes", "details", "lengths", "area", "duration"):
            workspace.save(name, saved[name])
        workspace.save("preferred", saved["preferred"])
        hashes, lengths = saved["hashes"], saved["lengths"]
        keys, owners = [], []
        for clip, end in enumerate(np.cumsum(lengths)):
            last = np.uint64(0)
            for value in hashes[int(end - lengths[clip]) : int(end)]:
                if value and int(np.bitwise_count(value ^ last)) > _SAME_BITS:
                    keys.append(value)
                    owners.append(clip)
                    last = value
        workspace.save("keys", np.array(keys, np.uint64))
        workspace.save("owners", np.array(owners, np.int64))

    def _count_tasks(self, workspace: Workspace) -> int:
        return len(plan_groups(len(workspace.load("keys")), self.search_radius))

    def _pairs(self, workspace: Workspace, index: int) -> None:
        """Pairs of clips that share a frame in one band slice, and how much they overlap."""
        keys, owners = np.ascontiguousarray(workspace.load("keys")), workspace.load("owners")
        lengths = workspace.load("lengths")
        hashes = np.stack([workspace.load("hashes"), workspace.load("details")], axis=1)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        candidates: set[tuple[int, int]] = set()
        for task in plan_groups(len(keys), self.search_radius)[index]:
            for pairs in close_pairs(keys, self.search_radius, task):
                clips = np.unique(np.sort(owners[pairs], axis=1), axis=0)
                candidates |= {(int(a), int(b)) for a, b in clips if a != b}
        found = []
        for a, b in sorted(candidates):
            share = overlap(
                hashes[starts[a] : starts[a + 1]], hashes[starts[b] : starts[b + 1]], self.radius
            )
            if share >= self.overlap:
                found.append((a, b, share))
        edges = np.array(found, np.float64).reshape(-1, 3)
        PartArrays(workspace, "edges").save(index, edges=edges)

    def _winners(self, workspace: Workspace, _: int) -> None:
        """Components over all edges, and the survivor of each."""
        ids = np.asarray(workspace.load("ids"))
        n = len(ids)
        pairs = PartArrays(workspace, "edges", self._count_tasks(workspace))
        found = pairs.join(edges=np.zeros((0, 3)))["edges"]
        edges, share = found[:, :2].astype(np.int64), found[:, 2]
        row_starts, row_clip = workspace.load("row_starts"), workspace.load("row_clip")
        stands = Standing(workspace, row_starts, row_clip, n)
        if workspace.first_part:
            # Captions of one clip that came with several lists.
            edges = np.concatenate([edges, equal_rows(ids)])
        label = components(edges, n)
        keys = preference(ids, np.asarray(workspace.load("preferred")))
        # Durations of copies differ by a frame; tenths of a second decide.
        length = np.round(np.asarray(workspace.load("duration")), 1)
        area = -np.asarray(workspace.load("area"))
        survivor, size = leaders(label, [*keys, area, -length, stands.rank])
        same_clip = (ids == ids[survivor]).all(axis=1) & (workspace.first_part > 0)
        best = np.zeros(n)
        for side in (0, 1):
            np.maximum.at(best, found[:, side].astype(np.int64), share)
        parents = np.asarray(workspace.load("parents"))
        video = np.unique(parents, axis=0, return_inverse=True)[1].reshape(-1)
        eldest = np.unique(video, return_index=True)[1]
        siblings = np.stack([eldest[video], np.arange(n)], axis=1)
        families = components(np.concatenate([edges, siblings]), n)
        family = leaders(families, [*preference(ids, np.zeros((n, 0))), stands.rank])[0]
        decided = rows_of_parts(
            row_starts,
            row_clip,
            group=stands.digests("duplicate_group", ids)[survivor],
            survivor=ids[survivor],
            is_copy=(survivor != np.arange(n)) & ~same_clip,
            overlap=best.round(5).astype(np.float32),
            size=size.astype(np.int32),
            family=stands.digests("split_group", ids)[family],
        )
        workspace.save_parts("decided", decided)


def overlap(a: NDArray[np.uint64], b: NDArray[np.uint64], radius: int) -> float:
    """Frames [n, 2] and [m, 2] of two clips: the share of the shorter's that agree with the
    longer's at the best shift in time, a step of slack allowed; 0 if fewer than four agree. Frames
    without a hash agree with none."""
    if len(a) > len(b):
        a, b = b, a
    distance = np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2)
    near = (distance <= radius) & (a[:, 0] != 0)[:, None] & (b[:, 0] != 0)[None]
    padded = np.pad(near, ((0, 0), (1, 1)))
    loose = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    rows = np.arange(len(a))
    best = 0
    # A trim lies inside; a shift may also leave some frames of the shorter without a partner.
    for shift in range(-len(a) // 2, len(b) - len(a) // 2 + 1):
        columns = rows + shift
        there = (columns >= 0) & (columns < len(b))
        best = max(best, int(loose[rows[there], columns[there]].sum()))
    told = int((a[:, 0] != 0).sum())
    return best / told if best >= min(_LEAST_FRAMES, told) and told else 0.0
