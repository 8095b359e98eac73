"""The rows that a Map yields, in the form in which they are stored: bytes beside them, in the order
of what they came from."""

from __future__ import annotations

import hashlib
from typing import IO

import numpy as np
import pyarrow as pa

from gristmill.dags.graph import BLOB, IMAGE, stores_images
from gristmill.pipelines.schema import POISONED, with_columns
from gristmill.pipelines.stage import Map


def store_images(table: pa.Table, blobs: IO[bytes]) -> pa.Table:
    """Move the pictures of a table into the blob file, leaving the place where they lie; rows of
    one picture, which come one after the other, share it."""
    offsets: list[int | None] = []
    sizes: list[int | None] = []
    digests: list[str | None] = []
    last: bytes | None = None
    at, digest = 0, ""
    for value in table[IMAGE]:
        data = value.as_py()
        if data is None:
            offsets.append(None)
            sizes.append(None)
            digests.append(None)
            continue
        if data != last:
            last, at, digest = data, blobs.tell(), hashlib.sha256(data).hexdigest()
            blobs.write(data)
        offsets.append(at)
        sizes.append(len(data))
        digests.append(digest)
    names = [name for name in table.column_names if name not in (IMAGE, *BLOB.names)]
    table = table.select(names)
    for field, values in zip(BLOB, (offsets, sizes, digests), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table


def in_order(table: pa.Table, origin: dict[str, int]) -> pa.Table:
    """Rows in the order of their origins."""
    uids, parents = table["uid"].to_pylist(), table["parent_uid"].to_pylist()
    positions = [
        origin[uid if uid in origin else parent] for uid, parent in zip(uids, parents, strict=True)
    ]
    return table.take(pa.array(np.argsort(positions, kind="stable")))


def nothing_mapped(table: pa.Table, stage: Map) -> pa.Table:
    """The mapped form of a part without rows."""
    if len(table):
        return table
    for field in [*stage.writes(), *(BLOB if stores_images(stage) else ())]:
        if field.name not in (IMAGE, *table.column_names):
            table = table.append_column(field, pa.array([], field.type))
    return table


def poisoned(stage: Map, table: pa.Table, reason: str) -> pa.Table:
    """Rows as a Map hands on those that it could do nothing with."""
    written = stage.writes()
    going_on = [
        name
        for name in table.column_names
        if name != IMAGE
        and (name in written.names or stage.forwards_column(name))
        # Without bytes there is no place where they lie.
        and not (stores_images(stage) and name in BLOB.names)
    ]
    table = table.select(going_on)
    for field in written:
        if field.name not in going_on:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    values = {"status": [POISONED] * len(table), "error": [reason] * len(table)}
    return with_columns(table, values, table.schema)
