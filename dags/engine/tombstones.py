"""What a run must forget: a list beside the run, and one beside its product for readers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import BrokenRecordError
from gristmill.pipelines.sealed import read_sealed, write_sealed
from gristmill.pipelines.storage import PARQUET, Folder

FILE, RECORD = "forgotten.parquet", "forgotten.json"
_SCHEMA = pa.schema(
    [
        # Column that names the row: uid, image_id or sha256.
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        # ISO 8601, UTC.
        pa.field("when", pa.string(), nullable=False),
        pa.field("why", pa.string()),
    ],
    # That there is a record beside it.
    metadata={"gristmill": "2"},
)


class Tombstone(TypedDict):
    """One thing to forget; `when` is ISO 8601, UTC."""

    kind: str
    value: str
    when: str
    why: str


def read_tombstones(folder: Folder) -> pa.Table:
    """All tombstones of a run, in the order in which they were set.

    They are written twice, as a table and as a sealed record; either stands in for the other.
    """
    try:
        rows = read_sealed(folder, RECORD)["tombstones"]
    except FileNotFoundError:
        # None, or set before there was a record.
        return folder.read_table(FILE) if folder.exists(FILE) else _SCHEMA.empty_table()
    except BrokenRecordError:
        return folder.read_table(FILE)
    return pa.Table.from_pylist(rows, _SCHEMA)


def add_tombstones(folder: Folder, rows: Sequence[Tombstone]) -> None:
    """Set more; those that stand already are left as they are."""
    there = read_tombstones(folder)
    known = set(zip(there["kind"].to_pylist(), there["value"].to_pylist(), strict=True))
    new = [row for row in rows if (row["kind"], row["value"]) not in known]
    if new:
        write_tombstones(
            folder,
            pa.concat_tables([there.cast(_SCHEMA), pa.Table.from_pylist(list(new), _SCHEMA)]),
        )


def write_tombstones(folder: Folder, table: pa.Table) -> None:
    """Set exactly these."""
    write_sealed(folder, RECORD, {"tombstones": table.to_pylist()})
    folder.write_table(FILE, table)


def tombstone_problems(folder: Folder) -> list[str]:
    """What is wrong with the lists, in words."""
    try:
        rows = read_sealed(folder, RECORD)["tombstones"]
    except FileNotFoundError:
        return [] if not folder.exists(FILE) or _is_old(folder) else [f"{RECORD} is missing"]
    except BrokenRecordError as error:
        return [str(error)]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), buffer, **PARQUET)
    try:
        same = folder.read_bytes(FILE) == buffer.getvalue().to_pybytes()
    except FileNotFoundError:
        return [f"{FILE} is missing"]
    return [] if same else [f"{FILE} is not what was written"]


def _is_old(folder: Folder) -> bool:
    """Whether tombstones were set before there was a record of them."""
    metadata = folder.read_schema(FILE).metadata or {}
    return b"gristmill" not in metadata


def tombstones_digest(folder: Folder) -> str:
    """Digest of what is forgotten; empty if nothing is."""
    table = read_tombstones(folder)
    pairs = sorted(zip(table["kind"].to_pylist(), table["value"].to_pylist(), strict=True))
    return hashlib.sha256(repr(pairs).encode()).hexdigest() if pairs else ""
