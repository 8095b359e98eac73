"""The commit records of many parts in one file, so that a node is read by one request and not by
one a part.

A part is committed by a record of its own (`000012.json`), written last; that stays the moment at
which it comes to be. Whoever holds the run's lock gathers such records into `records.jsonl` when a
step is done, or when there are many, and removes them then. A record that lies beside the bundle is
the later one, and stands above it: a part that is done again is committed as ever, and a kill
between the two leaves the same thing said twice.

They are removed, and not kept as a second copy, because only their absence tells that the bundle is
the later one: sizes are equal, and clocks of stores are not to be trusted. It also halves what is
listed. Every line has its own digest: a changed byte costs one part, as it did before there were
bundles, and a cut file the parts at its end. A bundle that is gone costs its node: its parts are
"not committed", and done again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import cast

import orjson
import xxhash

from gristmill.dags.engine.records import Record, StoredRecord, load_record
from gristmill.pipelines.patience import WrongBytesError, waits
from gristmill.pipelines.storage import Folder

BUNDLE = "records.jsonl"
_GROUP = ".jsonl"
_DIGITS = 32


def group_name(first: int) -> str:
    """The file with the records of some parts that were committed together, the first of which it
    is named for; it has the form of a bundle."""
    return f"{first:06d}{_GROUP}"


def group_names(names: Iterable[str]) -> list[str]:
    """Such files among these."""
    return sorted(n for n in names if n.endswith(_GROUP) and n.removesuffix(_GROUP).isdigit())


def write_bundle(folder: Folder, records: Mapping[int, Record], name: str = BUNDLE) -> None:
    """Write the records of a node, or of a group of its parts, whole."""
    folder.write_bytes(name, b"".join(_line(records[part]) for part in sorted(records)))


def read_bundle(folder: Folder, name: str = BUNDLE) -> tuple[dict[int, Record], int]:
    """The records that can be believed, none if there is no such file, and how many lines cannot.
    It is read again a few times before a line is called broken."""
    again = waits()
    while True:
        try:
            found, broken = parse_bundle(folder.read_bytes(name))
        except FileNotFoundError:
            return {}, 0
        if not broken or not again(WrongBytesError(f"{broken} lines of {name}")):
            return found, broken


def parse_bundle(data: bytes) -> tuple[dict[int, Record], int]:
    """Records by part, and how many lines are not as they were written."""
    collecting = gc.isenabled()
    # Of a hundred thousand records none is garbage: looking for it takes longer than to parse them.
    gc.disable()
    try:
        return _parse(data)
    finally:
        if collecting:
            gc.enable()


def _parse(data: bytes) -> tuple[dict[int, Record], int]:
    found: dict[int, Record] = {}
    broken = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        body = line[_DIGITS + 1 :]
        if xxhash.xxh3_128_hexdigest(body).encode() + b" " != line[: _DIGITS + 1]:
            broken += 1
            continue
        record = load_record(cast(StoredRecord, orjson.loads(body)))
        found[record.part] = record
    return found, broken


def _line(record: Record) -> bytes:
    body = orjson.dumps(record.stored())
    return xxhash.xxh3_128_hexdigest(body).encode() + b" " + body + b"\n"
