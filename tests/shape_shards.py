"""Shard sets of the world of shapes, made through the Shards stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import torch
from memory_workspace import MemoryWorkspace, run_phases
from shard_set import SCHEMA

from gristmill.model.center_crop import resize_center_crop
from gristmill.model.codecs.base import Codec, to_unit
from gristmill.model.shapes.scenes import caption, draw, make_scene
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards.shards import Shards


def build_shapes(
    folder: Path,
    seeds: Sequence[int],
    *,
    side: int = 96,
    codec: Codec | None = None,
    texts: Callable[[int], dict[str, str]] | None = None,
    **fields: Any,
) -> Path:
    """A shard set of scenes; with a codec, its tokens are stored too, and with `texts` more
    columns for each seed."""
    import numpy as np

    rows, images, at = [], {}, 0
    schema = SCHEMA
    if codec is not None:
        column = "image_codes" if codec.discrete else "image_latents"
        kind = pa.int32() if codec.discrete else pa.float32()
        schema = schema.append(pa.field(column, pa.list_(kind)))
        schema = schema.append(pa.field("image_grid", pa.list_(pa.int32())))
        schema = schema.append(pa.field("image_codec", pa.string()))
    for name in texts(seeds[0]) if texts else ():
        schema = schema.append(pa.field(name, pa.string()))
    for seed in seeds:
        scene = make_scene(seed)
        picture = draw(scene, side)
        flags = [cv2.IMWRITE_JPEG_QUALITY, 92]
        data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)[1].tobytes()
        row: dict[str, Any] = {
            "uid": digest_fields(str(seed)),
            "url": f"http://test/{seed}",
            "caption": caption(scene, seed),
            "source": "shapes",
            "sha256": digest_fields("sha", str(seed)) * 2,
            "format": "jpg",
            "width": side,
            "height": side,
            "duplicate_group": str(seed),
            "blob_offset": at,
            "blob_size": len(data),
        }
        row |= texts(seed) if texts else {}
        if codec is not None:
            small = torch.from_numpy(np.stack([resize_center_crop(picture, codec.side)]))
            row[column] = codec.encode(to_unit(small)).reshape(-1).tolist()
            row["image_grid"] = list(codec.grid)
            row["image_codec"] = codec.digest
        images[0, at] = data
        at += len(data)
        rows.append(row)
    options = {"samples_per_shard": 256, "val_share": 0.05, "title": "Shapes", **fields}
    table = pa.Table.from_pylist(rows, schema)
    run_phases(Shards(**options), MemoryWorkspace([table], folder, images))
    return folder / "product"
