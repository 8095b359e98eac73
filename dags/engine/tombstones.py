"""What a run must forget: a list beside the run, and one beside its product for readers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa

from gristmill.pipelines.storage import Folder

FILE = "forgotten.parquet"
_SCHEMA = pa.schema(
    [
        # Column that names the row: uid, image_id or sha256.
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        # ISO 8601, UTC.
        pa.field("when", pa.string(), nullable=False),
        pa.field("why", pa.string()),
    ]
)


class Tombstone(TypedDict):
    """One thing to forget; `when` is ISO 8601, UTC."""

    kind: str
    value: str
    when: str
    why: str


def read_tombstones(folder: Folder) -> pa.Table:
    """All tombstones of a run, in the order in which they were set."""
    return folder.read_table(FILE) if folder.exists(FILE) else _SCHEMA.empty_table()


def add_tombstones(folder: Folder, rows: Sequence[Tombstone]) -> None:
    """Set more; those that stand already are left as they are."""
    there = read_tombstones(folder)
    known = set(zip(there["kind"].to_pylist(), there["value"].to_pylist(), strict=True))
    new = [row for row in rows if (row["kind"], row["value"]) not in known]
    if new:
        folder.write_table(
            FILE, pa.concat_tables([there, pa.Table.from_pylist(list(new), _SCHEMA)])
        )


def tombstones_digest(folder: Folder) -> str:
    """Digest of what is forgotten; empty if nothing is."""
    table = read_tombstones(folder)
    pairs = sorted(zip(table["kind"].to_pylist(), table["value"].to_pylist(), strict=True))
    return hashlib.sha256(repr(pairs).encode()).hexdigest() if pairs else ""
