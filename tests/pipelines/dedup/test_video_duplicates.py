"""Copies of clips: planted trims, re-encodes, resizes, logos and grey versions are found, and
nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global
from videos import encode

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.video_duplicates import ClipDuplicates, overlap
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.videos.frames import decode_clip
from gristmill.pipelines.videos.video_fingerprint import ClipSignature

SIDE = 112


def scene(seed: int, count: int = 40) -> list[Any]:
    """Two blobs that wander over a ground of their own."""
    rng = np.random.default_rng(seed)
    small = rng.integers(30, 220, (8, 8, 3), np.uint8)
    ground = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    start, speed = rng.uniform(20, 90, (2, 2)), rng.uniform(-1, 1, (2, 2))
    colours = rng.integers(0, 255, (2, 3))
    frames = []
    for i in range(count):
        frame = ground.copy()
        for at, by, colour in zip(start, speed, colours, strict=True):
            centre = tuple(int(v) for v in at + by * i)
            cv2.circle(frame, centre, 14, tuple(int(c) for c in colour), -1)
        frames.append(np.asarray(frame, np.uint8))
    return frames


def logo(frames: list[Any]) -> list[Any]:
    marked = [frame.copy() for frame in frames]
    for frame in marked:
        frame[2:12, -26:-2] = 255
    return marked


def smaller(frames: list[Any]) -> list[Any]:
    return [cv2.resize(frame, (80, 80), interpolation=cv2.INTER_AREA) for frame in frames]


def grey(frames: list[Any]) -> list[Any]:
    return [np.repeat(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2) for f in frames]


def brighter(frames: list[Any]) -> list[Any]:
    return [np.clip(frame.astype(np.int16) + 20, 0, 255).astype(np.uint8) for frame in frames]


COPIES = {
    "trimmed": lambda frames: frames[7:-5], "smaller": smaller, "logo": logo, "grey": grey,
    "brighter": brighter,
}  # fmt: skip


def rows_of(files: list[bytes], sizes: list[int] | None = None) -> pa.Table:
    clips = [decode_clip(data) for data in files]
    ids = [digest_fields(str(i)) for i in range(len(files))]
    table = pa.table(
        {
            "uid": ids,
            "image_id": ids,
            "parent_uid": [digest_fields("video", str(i)) for i in range(len(files))],
            "duration_s": pa.array([len(c.signature) / 8 for c in clips], pa.float32()),
            "original_width": pa.array(sizes or [SIDE] * len(files), pa.int32()),
            "original_height": pa.array(sizes or [SIDE] * len(files), pa.int32()),
        }
    )
    scores = ClipSignature().score(table, clips)
    for name in scores.column_names:
        table = table.append_column(scores.schema.field(name), scores[name])
    return table


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    originals = [scene(seed) for seed in range(24)]
    files = [encode(frames) for frames in originals]
    planted = []
    for i, (name, change) in enumerate(COPIES.items()):
        for j in range(3):
            of = 3 * i + j
            planted.append((len(files), of, name))
            files.append(encode(change(originals[of])))
    table = rows_of(files)
    parts = [table.slice(0, 17), table.slice(17)]
    found = run_global(ClipDuplicates(), MemoryWorkspace(parts, tmp_path))
    groups = found["duplicate_group"].to_pylist()
    missed = [name for copy, of, name in planted if groups[copy] != groups[of]]
    assert missed == []
    alone = set(range(24)) - {of for _, of, _ in planted}
    assert [found["duplicate_group_size"][i].as_py() for i in sorted(alone)] == [1] * len(alone)
    # One of each group stays: the longest, then the largest.
    stays = [row["duplicate_of"] is None for row in found.to_pylist()]
    assert sum(stays) == 24
    assert all(stays[of] for _, of, name in planted if name == "trimmed")


def test_the_result_does_not_depend_on_parts(tmp_path: Path) -> None:
    originals = [scene(seed) for seed in range(6)]
    files = [encode(frames) for frames in [*originals, originals[0][5:], originals[3][:-8]]]
    table = rows_of(files)
    whole = run_global(ClipDuplicates(), MemoryWorkspace([table], tmp_path / "a"))
    cut = [table.slice(0, 3), table.slice(3, 1), table.slice(4)]
    assert run_global(ClipDuplicates(), MemoryWorkspace(cut, tmp_path / "b")).equals(whole)


def test_clips_of_one_video_and_their_copies_share_a_split_group(tmp_path: Path) -> None:
    originals = [scene(seed) for seed in range(4)]
    table = rows_of([encode(frames) for frames in [*originals, originals[1][4:]]])
    video = digest_fields("one")
    parents = [video, video, *table["parent_uid"].to_pylist()[2:]]
    table = table.set_column(2, "parent_uid", pa.array(parents))
    found = run_global(ClipDuplicates(), MemoryWorkspace([table], tmp_path))
    split = found["split_group"].to_pylist()
    assert split[0] == split[1] == split[4] and len({split[0], split[2], split[3]}) == 3


def test_one_shared_title_card_makes_no_copy(tmp_path: Path) -> None:
    card = scene(99, 12)
    files = [encode([*card, *scene(seed)]) for seed in range(4)]
    found = run_global(ClipDuplicates(), MemoryWorkspace([rows_of(files)], tmp_path))
    assert found["duplicate_group_size"].to_pylist() == [1, 1, 1, 1]


def test_overlap_counts_frames_at_one_shift() -> None:
    rng = np.random.default_rng(0)
    long = rng.integers(1, 2**63, (40, 2), np.uint64)
    assert overlap(long, long, 12) == 1
    assert overlap(long[10:30], long, 12) == overlap(long, long[10:30], 12) == 1
    assert overlap(long[::-1].copy(), long, 12) < 0.2
    other = long.copy()
    other[20:] = rng.integers(1, 2**63, (20, 2), np.uint64)
    assert overlap(other, long, 12) == pytest.approx(0.5)
    blank = np.zeros_like(long)
    assert overlap(blank, long, 12) == 0 and overlap(blank, blank, 12) == 0
    with pytest.raises(ConfigurationError):
        ClipDuplicates(radius=4, search_radius=6).check()
