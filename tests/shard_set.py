"""A small shard set, made through the Shards stage, for tests of shards and of their readers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from memory_workspace import MemoryWorkspace, run_phases

from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards.shards import Shards

ROWS = 40
SCHEMA = pa.schema(
    [
        *[
            pa.field(name, pa.string())
            for name in ("uid", "image_id", "url", "caption", "source", "sha256", "format")
        ],
        *[pa.field(name, pa.int32()) for name in ("width", "height")],
        pa.field("licence", pa.string()),
        pa.field("duplicate_group", pa.string()),
        pa.field("clip_score", pa.float32()),
        pa.field("blank", pa.bool_()),
        *[pa.field(name, pa.int64()) for name in ("blob_offset", "blob_size")],
    ]
)


def picture(i: int) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 255, (12, 16, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def build(folder: Path, cuts: list[int], order: Any = None, **fields: Any) -> Path:
    """Shards of 40 samples, the rows cut into parts; 0-7 in pairs of copies."""
    rows = [
        {
            "uid": digest_fields(str(i)),
            "url": f"http://test/{i}" if i % 5 else None,
            "caption": None if i == 3 else f"caption {i} <é>",
            "source": "test",
            "sha256": digest_fields("sha", str(i)) * 2,
            "format": "jpg",
            "width": 16,
            "height": 12,
            "licence": "CC-BY" if i % 2 else None,
            "duplicate_group": f"g{i // 2 if i < 8 else i}",
            "clip_score": None if i == 4 else i / 7,
            "blank": i == 5,
            "number": i,
        }
        for i in range(ROWS)
    ]
    rows = [rows[i] for i in (order if order is not None else range(ROWS))]
    edges = [0, *cuts, ROWS]
    parts, images = [], {}
    for part, (a, b) in enumerate(itertools.pairwise(edges)):
        at = 0
        for row in rows[a:b]:
            data = picture(row["number"])
            row |= {"blob_offset": at, "blob_size": len(data)}
            images[part, at] = data
            at += len(data)
        parts.append(pa.Table.from_pylist(rows[a:b], SCHEMA))
    options = {"samples_per_shard": 15, "val_share": 0.2, "title": "Test | <set>", **fields}
    stage = Shards(**options)
    stage.check()
    run_phases(stage, MemoryWorkspace(parts, folder, images))
    return folder / "product"
