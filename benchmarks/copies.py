"""Copies of real pictures under transforms: a perceptual hash with a thumbnail against local
features. Recall: planted copies that are grouped with their original. Precision: pairs of a group
that are of one original.

python benchmarks/copies.py --pictures FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cv2
import numpy as np
import pyarrow as pa
from memory_workspace import MemoryWorkspace, run_global

from gristmill.pipelines.decode import Image
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.dedup.local_feature_duplicates import RobustCopies
from gristmill.pipelines.images.local_features import LocalFeatures
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.schema import digest_fields


def jpeg(image: Image, quality: int) -> Image:
    """Encoded and decoded."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def crop(image: Image, share: float, left: float = 0.5, top: float = 0.5) -> Image:
    """A window of `share` of each side."""
    height, width = image.shape[:2]
    h, w = int(height * share), int(width * share)
    y, x = int((height - h) * top), int((width - w) * left)
    return np.ascontiguousarray(image[y : y + h, x : x + w])


def overlay(image: Image) -> Image:
    """A banner with text over the lower fifth."""
    image = image.copy()
    height, width = image.shape[:2]
    cv2.rectangle(image, (0, int(0.8 * height)), (width, height), (20, 20, 200), -1)
    place, scale = (width // 10, int(0.93 * height)), width / 400
    cv2.putText(image, "BREAKING NEWS", place, cv2.FONT_HERSHEY_DUPLEX, scale, (255,) * 3, 2)
    return image


def turned(image: Image, degrees: float) -> Image:
    """Turned about the middle, the corners cut."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    whole = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return crop(whole, 0.8)


def framed(image: Image) -> Image:
    """A wide frame."""
    height, width = image.shape[:2]
    border = (height // 6, height // 6, width // 6, width // 6)
    return cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=(255, 255, 255))


TRANSFORMS: dict[str, Callable[[Image], Image]] = {
    "jpeg 40": lambda image: jpeg(image, 40),
    "half size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
    "brighter": lambda image: np.clip(image * 1.25 + 10, 0, 255).astype(np.uint8),
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
    "flipped": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "crop 90 %": lambda image: crop(image, 0.9, 0.2, 0.8),
    "crop 70 %": lambda image: crop(image, 0.7, 0.8, 0.3),
    "crop 50 %": lambda image: crop(image, 0.5),
    "overlay": overlay,
    "turned 15": lambda image: turned(image, 15),
    "framed": framed,
    "flipped, crop 80 %": lambda image: crop(np.ascontiguousarray(image[:, ::-1]), 0.8),
}


def make_corpus(pictures: list[Image]) -> tuple[list[Image], list[int], list[str]]:
    """Originals, then each third picture under each transform: pictures, original, transform."""
    images, original, kind = list(pictures), list(range(len(pictures))), ["" for _ in pictures]
    for number, (name, change) in enumerate(TRANSFORMS.items()):
        for i in range(number % 3, len(pictures), 3):
            images.append(jpeg(change(pictures[i]), 88))
            original.append(i)
            kind.append(name)
    return images, original, kind


def judge(group: list[str], original: list[int], kind: list[str]) -> dict[str, Any]:
    """Recall of each transform; precision over all pairs of groups."""
    recall = {}
    for name in TRANSFORMS:
        rows = [i for i, one in enumerate(kind) if one == name]
        recall[name] = round(sum(group[i] == group[original[i]] for i in rows) / len(rows), 3)
    members: dict[str, list[int]] = {}
    for i, one in enumerate(group):
        members.setdefault(one, []).append(original[i])
    right = wrong = 0
    for found in members.values():
        for a in range(len(found)):
            for b in range(a):
                right, wrong = right + (found[a] == found[b]), wrong + (found[a] != found[b])
    return {"recall": recall, "precision": round(right / max(right + wrong, 1), 4)}


def compare(pictures: list[Image], folder: Path) -> dict[str, Any]:
    """Both ways on the same corpus."""
    images, original, kind = make_corpus(pictures)
    rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    ids = [digest_fields("image", str(i)) for i in range(len(images))]
    table = pa.table(
        {
            "uid": ids, "image_id": ids, "sha256": [one * 2 for one in ids],
            "original_width": pa.array([image.shape[1] for image in images], pa.int32()),
            "original_height": pa.array([image.shape[0] for image in images], pa.int32()),
        }
    )  # fmt: skip
    found: dict[str, Any] = {"pictures": len(images), "originals": len(pictures)}
    for name, score, stage, column in (
        ("phash", PerceptualHash(), Duplicates(prefer=()), "duplicate_group"),
        ("local features", LocalFeatures(), RobustCopies(prefer=()), "copy_of"),
    ):
        start = time.perf_counter()
        scores = score.score(pa.table({}), rgb)
        scored = time.perf_counter() - start
        rows = table
        for field in scores.schema:
            rows = rows.append_column(field, scores[field.name])
        result = run_global(stage, MemoryWorkspace([rows], folder / column))
        group = [one or own for one, own in zip(result[column].to_pylist(), ids, strict=True)]
        found[name] = judge(group, original, kind)
        found[name]["ms a picture"] = round(1000 * scored / len(rgb), 1)
        found[name]["groups, s"] = round(time.perf_counter() - start - scored, 1)
    return found


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    endings = (".jpg", ".jpeg", ".png", ".webp")
    files = sorted(p for p in Path(options.pictures).rglob("*") if p.suffix.lower() in endings)
    pictures = [cv2.imread(str(path)) for path in files[: options.count]]
    # As a run stores them.
    pictures = [
        cv2.resize(p, None, fx=256 / max(p.shape[:2]), fy=256 / max(p.shape[:2]),
                   interpolation=cv2.INTER_AREA)
        for p in pictures if p is not None
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(pictures, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
