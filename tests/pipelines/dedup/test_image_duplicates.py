"""Duplicates: components by brute force, the survivor rule, captions of one image, any order."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError
from gristmill.model.shapes.scenes import draw, make_scene
from gristmill.pipelines.dedup import hamming, image_duplicates, part_arrays
from gristmill.pipelines.dedup.hamming import close_pairs, plan_bands, plan_tasks
from gristmill.pipelines.dedup.image_duplicates import Duplicates, thumbnail_distance
from gristmill.pipelines.images.perceptual_hash import PerceptualHash, thumbnail
from gristmill.pipelines.schema import digest_fields


def brute_force(hashes: Any, radius: int) -> set[tuple[int, int]]:
    found = set()
    for i in range(len(hashes)):
        near = np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= radius)
        found |= {(i, i + 1 + int(j)) for j in near}
    return found


def search(hashes: Any, radius: int) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for task in plan_tasks(len(hashes), radius):
        pairs = [
            tuple(pair) for array in close_pairs(hashes, radius, task) for pair in array.tolist()
        ]
        assert len(pairs) == len(set(pairs)), "a task finds a pair once"
        found |= set(pairs)
    return found


@pytest.mark.parametrize("radius", [0, 1, 3, 6, 10])
def test_every_pair_within_the_radius_is_found_and_no_other(radius: int) -> None:
    rng = np.random.default_rng(radius)
    centres = rng.integers(0, 2**64, 200, dtype=np.uint64)
    hashes = np.repeat(centres, 10)
    for i in range(len(hashes)):
        for bit in rng.choice(64, int(rng.integers(0, 9)), replace=False):
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
    expected = brute_force(hashes, radius)
    assert len(expected) > 50
    assert search(hashes, radius) == expected


def test_many_equal_hashes_are_searched_in_bounded_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill.pipelines.dedup.hamming.CHUNK_PAIRS", 50)
    hashes = np.concatenate([np.full(80, 7, np.uint64), np.arange(40, dtype=np.uint64) << 3])
    assert search(hashes, 2) == brute_force(hashes, 2)


@pytest.mark.parametrize(("n", "radius"), [(10**4, 6), (10**6, 6), (10**7, 6), (10**7, 10)])
def test_bands_cover_all_bits_and_their_radii_add_up(n: int, radius: int) -> None:
    bands = plan_bands(n, radius)
    assert sum(band.width for band in bands) == 64
    assert sum(band.radius + 1 for band in bands) == radius + 1


def scene_rows(count: int = 24) -> list[dict[str, Any]]:
    """Pictures with planted copies: 0-3 near, 4 and 5 equal bytes, 6 and 7 equal pixels."""
    pictures = [draw(make_scene(i), 96) for i in range(count)]
    pictures[1] = cv2.resize(pictures[0], (64, 64), interpolation=cv2.INTER_AREA)  # type: ignore[call-overload]
    pictures[2] = np.clip(pictures[0] * 1.2, 0, 255).astype(np.uint8)
    pictures[3] = np.clip(pictures[0].astype(int) - 25, 0, 255).astype(np.uint8)
    pictures[5] = pictures[4]
    pictures[7] = pictures[6]
    scores = PerceptualHash().score(pa.table({"x": [0] * count}), pictures).to_pylist()
    rows = []
    for i, (picture, score) in enumerate(zip(pictures, scores, strict=True)):
        side = picture.shape[0]
        rows.append(
            {
                "uid": digest_fields("row", str(i)),
                "image_id": digest_fields("image", str(i)),
                "sha256": digest_fields("sha", "45" if i in (4, 5) else str(i)) * 2,
                **score,
                "original_width": side,
                "original_height": side,
                "clip_score": i / 100,
            }
        )
    return rows


SCHEMA = pa.schema(
    [
        *[pa.field(name, pa.string()) for name in ("uid", "image_id", "sha256")],
        *PerceptualHash().writes(),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("clip_score", pa.float32()),
    ]
)


def find(
    rows: list[dict[str, Any]], cuts: list[int], folder: Path, **fields: Any
) -> dict[str, Any]:
    """Run over `rows` cut into parts; returns uid -> what was decided."""
    edges = [0, *cuts, len(rows)]
    parts = [pa.Table.from_pylist(rows[a:b], SCHEMA) for a, b in itertools.pairwise(edges)]
    table = run_global(Duplicates(**fields), MemoryWorkspace(parts, folder))
    uids = [row["uid"] for row in rows]
    return dict(zip(uids, table.to_pylist(), strict=True))


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    rows = scene_rows()
    found = [find(rows, [10], tmp_path)[row["uid"]] for row in rows]
    ids = [row["image_id"] for row in rows]
    # The largest stay: 0, 2 and 3 have the same size, 3 the best score; of 4/5 and 6/7 the better.
    assert [one["duplicate_of"] for one in found[:8]] == [
        ids[3], ids[3], ids[3], None, ids[5], None, ids[7], None,
    ]  # fmt: skip
    kinds = [one["duplicate_kind"] for one in found[:8]]
    assert kinds == ["near", "near", "near", None, "bytes", None, "pixels", None]
    assert [one["duplicate_group_size"] for one in found[:8]] == [4, 4, 4, 4, 2, 2, 2, 2]
    for i, one in enumerate(found[8:], 8):
        assert one["duplicate_of"] is None and one["duplicate_group"] == ids[i]


def test_parts_order_and_tasks_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scene_rows()
    first = find(rows, [10], tmp_path / "a")
    monkeypatch.setattr(hamming, "FEW", 0)
    monkeypatch.setattr(part_arrays, "PARTS_A_TASK", 3)
    monkeypatch.setattr(image_duplicates, "PARTS_A_TASK", 3)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    assert find(shuffled, [3, 4, 17], tmp_path / "b") == first


def test_captions_of_one_image_are_not_copies_of_each_other(tmp_path: Path) -> None:
    rows = scene_rows(9)
    second = {**rows[8], "uid": "f" * 32, "clip_score": 0.9}
    found = find([*rows[:8], rows[8], second], [4], tmp_path)
    assert found[rows[8]["uid"]] == found["f" * 32]
    assert found["f" * 32]["duplicate_of"] is None
    assert found["f" * 32]["duplicate_group_size"] == 1


def test_each_kind_can_be_left_out(tmp_path: Path) -> None:
    rows = scene_rows(8)
    none = find(rows, [], tmp_path / "0", exact_bytes=False, exact_pixels=False, near=False)
    assert all(one["duplicate_of"] is None for one in none.values())
    only = find(rows, [], tmp_path / "1", exact_bytes=True, exact_pixels=False, near=False)
    assert [one["duplicate_kind"] for one in only.values()].count("bytes") == 1
    assert sum(one["duplicate_of"] is not None for one in only.values()) == 1


def test_a_hash_that_collides_is_cleared_by_the_thumbnail(tmp_path: Path) -> None:
    rows = scene_rows(12)
    for row in rows[8:]:
        row["phash"] = rows[8]["phash"]
    found = find(rows, [], tmp_path)
    assert all(found[row["uid"]]["duplicate_of"] is None for row in rows[8:])


def test_brightness_and_contrast_do_not_matter_to_the_thumbnail() -> None:
    first, other = (thumbnail(draw(make_scene(i), 96)).reshape(1, -1) for i in (1, 2))
    changed = np.clip(first * 0.8 + 20, 0, 255).astype(np.uint8)
    assert thumbnail_distance(first, changed)[0] < 0.05
    assert thumbnail_distance(first, other)[0] > 0.5


def test_a_radius_that_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 16"):
        Duplicates(radius=40).check()
