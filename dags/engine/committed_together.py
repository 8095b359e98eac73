"""Some parts that are committed at once: one file with their rows, one with their records.

For columns that come when all parts are there, of which many parts are done in one task: a store is
then asked by the task, and not by the part. Each part's rows are a Parquet file of their own inside
that file, with a digest of their own, so that a part is read alone, and taken back alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gristmill.dags.engine.bundle import group_name, write_bundle
from gristmill.dags.engine.records import CommitFacts, FileRecord, Record
from gristmill.dags.engine.run_folder import ROWS, PartStore


def commit_together(
    store: PartStore, first: int, parts: Iterable[tuple[int, pa.Table, CommitFacts]]
) -> None:
    """Commit the rows of parts, as (number, rows, facts), one after the other; `first` names the
    files. Nothing of them is there if it does not come to its end."""
    records: dict[int, Record] = {}
    with store.attempt(first) as attempt:
        name = attempt.name(ROWS, "parts")
        with attempt.output(ROWS, "parts") as file:
            for part, table, facts in parts:
                sink = pa.BufferOutputStream()
                pq.write_table(table, sink, compression="zstd")
                data = sink.getvalue()
                rows: FileRecord = {
                    "name": name,
                    "start": file.size,
                    "size": len(data),
                    "xxh3": xxhash.xxh3_128_hexdigest(data),
                }
                file.write(data)
                records[part] = Record(part=part, files={ROWS: rows}, **facts)
        write_bundle(store.folder, records, group_name(first))
        attempt.leave()
    for record in records.values():
        store.committed(record)
