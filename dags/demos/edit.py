"""The demo of edit pairs: one shape is recoloured, with planted faults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.demos.media import CLEAN, MediaDemo, Planted, World, common_settings, scaled
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.edit import edit
from gristmill.dags.settings import apply_settings
from gristmill.pipelines.decode import Image, encode_jpeg

if TYPE_CHECKING:
    from gristmill.model.shapes.scenes import Scene

_SIDE = 160
_CLEAN = 240
PLANTED = {
    "nothing changed": 16, "all changed": 16, "wrong edit": 20, "other shape": 10,
    "target missing": 8, "target broken": 8, "no instruction": 8, "blank target": 8,
}  # fmt: skip
CAUGHT_AS: dict[str, tuple[str, ...]] = {
    "nothing changed": ("nothing changed",),
    "all changed": ("all changed",),
    "wrong edit": ("edit goes elsewhere",),
    "other shape": ("other shape",),
    "target missing": ("no target image",),
    "target broken": ("truncated image", "not decodable"),
    "no instruction": ("no instruction",),
    "blank target": ("blank",),
}


def build(folder: str, base: str, seed: int, share: float) -> World:
    """Write pairs as InstructPix2Pix has them, and the truth."""
    from gristmill.model.shapes.changes import make_edit
    from gristmill.model.shapes.scenes import captions, draw, make_scene

    first = 8 * 10**9 + seed * 10**5
    rng = np.random.Generator(np.random.PCG64([seed, 33]))
    rows: list[dict[str, object]] = []
    planted: list[Planted] = []
    number = 0
    for fault, count in scaled({CLEAN: _CLEAN, **PLANTED}, share).items():
        for _ in range(count):
            change = make_edit(first + number)
            number += 1
            before = draw(change.before, _SIDE)
            after: Image | None = draw(change.after, _SIDE)
            instruction = change.text
            if fault == "nothing changed":
                after = before
            elif fault == "all changed":
                other = draw(make_scene(first + 50_000 + number), _SIDE).astype(np.int16)
                after = np.asarray(np.clip(other - 90, 0, 255), np.uint8)
            elif fault == "wrong edit":
                # Something else is done than what is said.
                after = draw(_removed(change.before), _SIDE)
            elif fault == "other shape":
                after = np.ascontiguousarray(draw(change.after, _SIDE)[:, : _SIDE * 3 // 4])
            elif fault == "target missing":
                after = None
            elif fault == "no instruction":
                instruction = ""
            elif fault == "blank target":
                after = np.full((_SIDE, _SIDE, 3), int(rng.integers(256)), np.uint8)
            data = encode_jpeg(after, 92) if after is not None else None
            if fault == "target broken" and data is not None:
                data = data[: len(data) // 2]
            planted.append(Planted(len(rows), fault))
            rows.append(
                {
                    "original_prompt": captions(change.before)[0],
                    "original_image": {"bytes": encode_jpeg(before, 92), "path": None},
                    "edit_prompt": instruction,
                    "edited_prompt": captions(change.after)[0],
                    "edited_image": {"bytes": data, "path": None},
                }
            )
    cell = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    schema = pa.schema(
        [
            pa.field("original_prompt", pa.string()), pa.field("original_image", cell),
            pa.field("edit_prompt", pa.string()), pa.field("edited_prompt", pa.string()),
            pa.field("edited_image", cell),
        ]
    )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, os.path.join(folder, "pairs.parquet"), row_group_size=64)
    return World("pairs.parquet", planted, {})


def _removed(scene: Scene) -> Scene:
    """The same ground without the first thing, or with another in its place if it is alone."""
    from gristmill.model.shapes.scenes import Scene, make_scene

    if len(scene.things) > 1:
        return Scene(scene.seed, scene.things[1:])
    return Scene(scene.seed, make_scene(scene.seed + 77).things)


def demo_dag(source: str, network: str, host: str) -> Dag:
    """The edit recipe on the little world."""
    return apply_settings(
        edit(path=source, name="little-edits"),
        [
            "keep.rules.edit goes elsewhere=edit_direction < 0.6",
            "shards.title=Recoloured shapes",
            *common_settings(network),
            "part_rows=120",
        ],
    )


DEMO = MediaDemo(build, demo_dag, CAUGHT_AS, "keep", "edit_direction", "wrong edit")
