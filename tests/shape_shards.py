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

from gristmill.model.codecs.base import Codec, to_unit
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.shapes.scenes import SMALL, World, caption, draw, make_scene
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards.shards import Shards


def build_documents(
    folder: Path, documents: Sequence[tuple[Sequence[str], Sequence[int]]], **fields: Any
) -> Path:
    """A shard set of documents, each its texts and the texts before which a scene stands; the
    pictures of document d were the samples "d.0", "d.1" and so on."""
    rows, images, at = [], {}, 0
    strings = ("image_names", "image_formats", "image_uids", "texts")
    numbers = ("image_offsets", "image_sizes", "image_places", "image_widths", "image_heights")
    schema = pa.schema(
        [
            *SCHEMA,
            *(pa.field(name, pa.list_(pa.string())) for name in strings),
            *(pa.field(name, pa.list_(pa.int64())) for name in numbers),
        ]
    )
    for number, (texts, places) in enumerate(documents):
        files = [_jpeg(draw(make_scene(1000 * number + i), 48)) for i in range(len(places))]
        offsets = [at + sum(map(len, files[:i])) for i in range(len(files))]
        images |= {(0, offset): data for offset, data in zip(offsets, files, strict=True)}
        at += sum(map(len, files))
        names = [str(i) for i in range(len(files))]
        rows.append(
            {
                "uid": digest_fields(str(number)),
                "caption": " ".join(texts),
                "source": "shapes",
                "sha256": digest_fields("sha", str(number)) * 2,
                "format": "jpg",
                "duplicate_group": str(number),
                "texts": texts,
                "image_places": places,
                "image_names": names,
                "image_formats": ["jpg"] * len(files),
                "image_uids": [f"{number}.{name}" for name in names],
                "image_widths": [48] * len(files),
                "image_heights": [48] * len(files),
                "image_offsets": offsets,
                "image_sizes": list(map(len, files)),
                "blob_offset": offsets[0] if offsets else 0,
                "blob_size": sum(map(len, files)),
            }
        )
    options = {"media": "document", "samples_per_shard": 256, "val_share": 0.0, **fields}
    run_phases(
        Shards(**options), MemoryWorkspace([pa.Table.from_pylist(rows, schema)], folder, images)
    )
    return folder / "product"


def _jpeg(picture: Image) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def build_shapes(
    folder: Path,
    seeds: Sequence[int],
    *,
    side: int = 96,
    codec: Codec | None = None,
    texts: Callable[[int], dict[str, str]] | None = None,
    world: World = SMALL,
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
        scene = make_scene(seed, world=world)
        picture = draw(scene, side)
        data = _jpeg(picture)
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
