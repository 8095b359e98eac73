"""Rows that a Write node could not write after all: the one verdict that comes after Keep."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.saved import load_saved_table
from gristmill.pipelines.shards.files import LOST, LOST_SCHEMA
from gristmill.pipelines.stage import Write


def product_losses(layout: RunLayout) -> Mapping[str, pa.Table]:
    """Node -> `uid`, `reason`, `value` of the rows that it lost; nodes that lost none are left
    out."""
    found: dict[str, pa.Table] = {}
    for node in layout.dag.order():
        if not isinstance(layout.dag.stage(node), Write):
            continue
        tables = []
        for one in layout.lists:
            folder, place = layout.folder.sub(one.last_folder(node)), f"saved/{LOST}"
            names = [name for name in folder.names(place) if name.endswith(".parquet")]
            tables += [load_saved_table(folder, f"{place}/{name}") for name in names]
        if tables:
            found[node] = pa.concat_tables(tables).cast(LOST_SCHEMA)
    return found
