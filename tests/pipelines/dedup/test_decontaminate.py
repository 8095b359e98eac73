"""Planted copies of an evaluation's pictures and captions are found, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.dedup.decontaminate import Decontaminate
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.schema import digest_fields


def picture(seed: int) -> np.ndarray:
    """Soft noise, as a photograph has it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (9, 12, 3), np.uint8)
    return np.asarray(cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))


def encoded(image: np.ndarray, ending: str = ".jpg", quality: int = 92) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == ".jpg" else []
    return cv2.imencode(ending, image, options)[1].tobytes()


CHANGES: dict[str, Any] = {
    "the same": lambda image: encoded(image),
    "jpeg 40": lambda image: encoded(image, quality=40),
    "png": lambda image: encoded(image, ".png"),
    "webp": lambda image: encoded(image, ".webp"),
    "half": lambda image: encoded(cv2.resize(image, None, fx=0.5, fy=0.5)),
    "a third": lambda image: encoded(cv2.resize(image, None, fx=0.33, fy=0.33)),
    "double": lambda image: encoded(cv2.resize(image, None, fx=2, fy=2)),
    "squeezed": lambda image: encoded(cv2.resize(image, (256, 256))),
}


def corpus(files: list[bytes], captions: list[str | None]) -> pa.Table:
    facts = PerceptualHash().score(pa.table({}), [decode_rgb(data) for data in files])
    table = pa.table(
        {
            "uid": [digest_fields("row", str(i)) for i in range(len(files))],
            "caption": pa.array(captions, pa.string()),
            "sha256": [digest_fields(data.hex()) * 2 for data in files],
        }
    )
    for name in facts.column_names:
        table = table.append_column(facts.schema.field(name), facts[name])
    return table


SENTENCE = "two brown horses graze behind a wooden fence in the evening light of a misty autumn day"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    for i in range(12):
        (folder / f"{i:02d}.jpg").write_bytes(encoded(picture(i), quality=95))
        (folder / f"{i:02d}.txt").write_text(f"{SENTENCE} number {i}" if i == 3 else f"item {i}")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_every_copy_is_found_and_named(evaluation: Path, tmp_path: Path) -> None:
    files, planted = [], []
    for number, change in enumerate(CHANGES.values()):
        for i in range(12):
            files.append(change(picture(i)))
            planted.append(i)
        # As many that nobody planted.
        files += [change(picture(1000 + 12 * number + i)) for i in range(12)]
        planted += [-1] * 12
    rows = corpus(files, [None] * len(files))
    stage = Decontaminate(sources=(str(evaluation),))
    stage.check()
    parts = [rows.slice(0, 50), rows.slice(50)]
    found = run_global(stage, MemoryWorkspace(parts, tmp_path))
    for item, name in zip(planted, found["contaminated_by"].to_pylist(), strict=True):
        assert (name is None) == (item < 0)
        if name:
            assert name.endswith(f"/{item:02d}.jpg") and name.startswith(str(evaluation))
    assert set(found["contamination"].to_pylist()) <= {"near", "pixels", "bytes", None}


def test_captions_are_found_too(evaluation: Path, tmp_path: Path) -> None:
    captions = [
        f"{SENTENCE} number 3",
        SENTENCE.upper() + ", number 3!",
        SENTENCE.replace("brown", "white") + " number 3",
        "two brown horses graze",
        "item 5",
        None,
    ]
    rows = corpus([encoded(picture(500 + i)) for i in range(6)], captions)
    found = run_global(Decontaminate(sources=(str(evaluation),)), MemoryWorkspace([rows], tmp_path))
    assert found["contamination"].to_pylist() == ["caption"] * 3 + [None] * 3
    assert all(name.endswith("/03.jpg") for name in found["contaminated_by"].to_pylist()[:3])
    stage = Decontaminate(sources=(str(evaluation),), compare_captions=False)
    found = run_global(stage, MemoryWorkspace([rows], tmp_path / "b"))
    assert found["contaminated_by"].null_count == 6


def test_what_is_refused(tmp_path: Path) -> None:
    assert Decontaminate().is_disabled()
    with pytest.raises(SourceError):
        Decontaminate(sources=(str(tmp_path / "nowhere"),)).check()
    with pytest.raises(ConfigurationError):
        Decontaminate(sources=(str(tmp_path),), threshold=2.0).check()
