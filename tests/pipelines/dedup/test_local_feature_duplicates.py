"""Flips, crops and overlays are found by local features, where a hash sees nothing."""

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
from gristmill.pipelines.dedup import local_feature_duplicates
from gristmill.pipelines.dedup.local_feature_duplicates import RobustCopies
from gristmill.pipelines.dedup.visual_words import SparseRows, bags_of_words
from gristmill.pipelines.images.local_features import (
    LocalFeatures,
    local_features,
    matching_points,
    mirrored,
)
from gristmill.pipelines.schema import digest_fields


def photograph(seed: int) -> np.ndarray:
    """Something with as many edges as a street has."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 200, (5, 6, 3)).astype(np.uint8)
    image: Any = cv2.resize(ground, (256, 200), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = rng.integers(0, 256), rng.integers(0, 200)
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        size = int(rng.integers(4, 22))
        if rng.uniform() < 0.5:
            cv2.circle(image, (int(x), int(y)), size // 2 + 2, colour, -1)
        else:
            corners = rng.integers(-size, size, (4, 2)) + np.array([x, y])
            cv2.fillPoly(image, [corners.astype(np.int32)], colour)
    return np.asarray(image)


def with_banner(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    cv2.rectangle(image, (0, 160), (256, 200), (200, 20, 20), -1)
    cv2.putText(image, "BREAKING NEWS", (20, 188), cv2.FONT_HERSHEY_DUPLEX, 0.7, (255,) * 3, 1)
    return image


CHANGES: dict[str, Any] = {
    "flipped": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "cropped": lambda image: np.ascontiguousarray(image[20:170, 40:240]),
    "both": lambda image: np.ascontiguousarray(image[20:180, ::-1][:, 30:230]),
    "banner": with_banner,
}
ORIGINALS = 14


def table(images: list[np.ndarray], extra: dict[str, Any] | None = None) -> pa.Table:
    scores = LocalFeatures().score(pa.table({}), images)
    ids = [digest_fields("image", str(i)) for i in range(len(images))]
    found = pa.table(
        {
            "image_id": ids,
            "original_width": pa.array([image.shape[1] for image in images], pa.int32()),
            "original_height": pa.array([image.shape[0] for image in images], pa.int32()),
            **(extra or {}),
        }
    )
    for field in scores.schema:
        found = found.append_column(field, scores[field.name])
    return found


@pytest.fixture(scope="module")
def corpus() -> tuple[pa.Table, list[int], list[str]]:
    images = [photograph(i) for i in range(ORIGINALS)]
    original, kind = list(range(ORIGINALS)), [""] * ORIGINALS
    for name, change in CHANGES.items():
        for i in range(ORIGINALS):
            images.append(change(photograph(i)))
            original.append(i)
            kind.append(name)
    return table(images), original, kind


def test_recall_and_precision(
    corpus: tuple[pa.Table, list[int], list[str]], tmp_path: Path
) -> None:
    rows, original, kind = corpus
    stage = RobustCopies(prefer=())
    found = run_global(stage, MemoryWorkspace([rows.slice(0, 20), rows.slice(20)], tmp_path))
    ids = rows["image_id"].to_pylist()
    group = [one or own for one, own in zip(found["copy_of"].to_pylist(), ids, strict=True)]
    for name in CHANGES:
        right = [group[i] == group[original[i]] for i, k in enumerate(kind) if k == name]
        assert sum(right) >= 0.9 * len(right), name
    for i, j in itertools.combinations(range(len(ids)), 2):
        assert group[i] != group[j] or original[i] == original[j]
    # The survivor is the largest; a flipped copy says so if nothing fits it better unflipped.
    assert all(
        group[i] in ids[:ORIGINALS] or kind[ids.index(group[i])] != "cropped"
        for i in range(len(ids))
    )
    flipped = [i for i, k in enumerate(kind) if k == "flipped"]
    assert found["copy_mirrored"].null_count == found["copy_points"].null_count
    assert all(found["copy_points"][i].as_py() >= stage.least_points for i in flipped)


def test_the_cut_into_parts_does_not_matter(
    corpus: tuple[pa.Table, list[int], list[str]], tmp_path: Path
) -> None:
    rows = corpus[0].slice(0, 30)
    stage = RobustCopies(prefer=())
    whole = run_global(stage, MemoryWorkspace([rows], tmp_path / "a"))
    cut = run_global(stage, MemoryWorkspace([rows.slice(0, 7), rows.slice(7)], tmp_path / "b"))
    assert whole.equals(cut)


def test_each_picture_is_made_a_bag_of_words_once_for_all_tasks(
    corpus: tuple[pa.Table, list[int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, made = corpus[0].slice(0, 10), []

    def counted(words: np.ndarray, weight: np.ndarray) -> SparseRows:
        made.append(len(words))
        return bags_of_words(words, weight)

    monkeypatch.setattr(local_feature_duplicates, "bags_of_words", counted)
    workspace = MemoryWorkspace([rows.slice(i, 2) for i in range(0, 10, 2)], tmp_path)
    stage = RobustCopies(prefer=(), iterations=1, candidates=1)
    run_global(stage, workspace)
    # Once for the index, and as a query of its own, as it is and in the mirror.
    assert sum(made) == 3 * len(rows)
    assert len([*workspace.folder.walk("bags")]) == workspace.parts
    assert [phase.name for phase in stage.phases()].count("bags") == 1


def test_what_a_hash_found_is_checked(tmp_path: Path) -> None:
    images = [photograph(1), cv2.resize(photograph(1), (180, 140)), photograph(2)]
    first = digest_fields("image", "0")
    duplicates = {"duplicate_of": pa.array([None, first, first], pa.string())}
    stage = RobustCopies(prefer=())
    rows = table(images, duplicates)
    assert "duplicate_of" in stage.resolve_columns(rows.schema)
    found = run_global(stage, MemoryWorkspace([rows], tmp_path))
    points = found["duplicate_points"].to_pylist()
    assert points[0] is None and points[1] >= 7 and points[2] < 7


def test_mirrored_descriptors_are_those_of_the_mirror_image() -> None:
    image = photograph(3)
    plain = local_features(image, 64, 256)
    mirror = local_features(np.ascontiguousarray(image[:, ::-1]), 64, 256)
    assert matching_points(plain, mirror, mirror=True) > 25
    assert matching_points(plain, mirror, mirror=False) < 7
    assert (mirrored(mirrored(plain[1])) == plain[1]).all()


def test_pictures_without_anything_are_nobodys_copies(tmp_path: Path) -> None:
    flat = [np.full((60, 80, 3), value, np.uint8) for value in (0, 0, 128, 255)]
    found = run_global(RobustCopies(prefer=()), MemoryWorkspace([table(flat)], tmp_path))
    assert found["copy_of"].null_count == 4 and found["copy_group_size"].to_pylist() == [1] * 4
    empty = table(flat).slice(0, 0)
    assert len(run_global(RobustCopies(prefer=()), MemoryWorkspace([empty], tmp_path / "b"))) == 0


def test_bad_fields() -> None:
    with pytest.raises(ConfigurationError):
        RobustCopies(least_points=2).check()
    with pytest.raises(ConfigurationError):
        LocalFeatures(count=2).check()
    assert LocalFeatures(count=0).is_disabled() and RobustCopies(enabled=False).is_disabled()
