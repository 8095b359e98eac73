"""From a source to parts: chunks are scanned in parallel, then put into one deterministic order.

Rows that are captions of one image come to lie together, at the place of the first, and never in
two parts, so that an image is fetched once. A row that the source holds twice stays once; the
others go to the ledger as `repeated row`. DuckDB sorts, within a memory limit, spilling to the
run's disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from gristmill.dags.engine.operators import DROPPED_SCHEMA
from gristmill.dags.engine.rows import make_scratch
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, PartStore, RunLayout
from gristmill.errors import SourceError
from gristmill.pipelines.database import open_database
from gristmill.pipelines.schema import ROW
from gristmill.pipelines.stage import Needs, Read

REPEATED = "repeated row"
SORT_MEMORY = "1GB"


class ScanOperator:
    """Reads one chunk of a source into a table of raw rows."""

    holds_worker = False

    def __init__(self, layout: RunLayout) -> None:
        self.layout, self.node = layout, layout.dag.source
        stage = layout.dag.stage(self.node)
        assert isinstance(stage, Read)
        self.stage = stage
        self.chunks = stage.chunks()

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        return self.stage.needs()

    def __call__(self, task: int) -> bool:
        """Scan a chunk; True if it was scanned before."""
        store = scans(self.layout)
        if store.record(task) is not None:
            return True
        start = time.perf_counter()
        rows = 0
        limit = self.layout.limit
        with store.attempt(task) as attempt:
            with (
                attempt.output(ROWS, "arrow") as file,
                pa.ipc.new_stream(pa.PythonFile(file, "w"), ROW) as writer,
            ):
                for table in self.stage.read(self.chunks[task]):
                    if limit and rows + len(table) > limit:
                        table = table.slice(0, limit - rows)
                    writer.write_table(table.cast(ROW))
                    rows += len(table)
                    if limit and rows >= limit:
                        break
            attempt.commit(rows_out=rows, seconds=time.perf_counter() - start)
        return False

    def close(self) -> None:
        """Nothing is held."""


def scans(layout: RunLayout) -> PartStore:
    """Where scanned chunks lie."""
    return PartStore(layout.folder.sub(f"{layout.node_folder(layout.dag.source)}/scan"))


def parts_done(layout: RunLayout) -> int | None:
    """Number of parts of the source, if they have all been cut."""
    folder = layout.folder.sub(layout.node_folder(layout.dag.source))
    try:
        return int(folder.read_json("parts.json")["parts"])
    except FileNotFoundError:
        return None


def cut_parts(layout: RunLayout, chunks: int) -> int:
    """Sort all scanned rows, set repeated ones aside, cut parts of `part_rows`. Returns how
    many."""
    store = layout.store(layout.dag.source)
    start = time.perf_counter()
    number = rows = 0
    scratch = make_scratch(layout)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, scratch)
        database = stack.enter_context(open_database(scratch, memory=SORT_MEMORY))
        database.register("scanned", _scanned(layout, chunks))
        database.execute("CREATE TEMP TABLE rows AS SELECT * FROM scanned")
        reader = database.sql(
            "SELECT *, min(row) OVER (PARTITION BY image_id) AS first_row, "
            "min(row) OVER (PARTITION BY uid) AS original FROM rows ORDER BY first_row, row"
        ).to_arrow_reader(min(10_000, max(layout.dag.part_rows, 100)))
        for table in _cut(reader, layout.dag.part_rows):
            _commit(store, number, table, time.perf_counter() - start)
            rows += len(table)
            number, start = number + 1, time.perf_counter()
    if rows == 0:
        raise SourceError(f"the source of {layout.dag.name} has no rows; is the path right?")
    store.folder.write_json("parts.json", {"parts": number, "rows": rows})
    return number


def _remove(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _scanned(layout: RunLayout, chunks: int) -> pa.RecordBatchReader:
    """All scanned rows in source order, `row` counted over the whole source, up to the limit."""
    store = scans(layout)

    def read() -> Iterator[pa.RecordBatch]:
        offset, left = 0, layout.limit or None
        index = ROW.get_field_index("row")
        for chunk in range(chunks):
            record = store.record(chunk)
            if record is None:
                return
            with store.folder.open(record.files[ROWS]["name"]) as file:
                for batch in pa.ipc.open_stream(file):
                    count = len(batch) if left is None else min(left, len(batch))
                    batch = batch.slice(0, count)
                    row = pa.array(np.arange(offset, offset + count, dtype=np.int64))
                    columns: list[pa.Array] = batch.columns
                    columns[index] = row
                    yield pa.RecordBatch.from_arrays(columns, schema=ROW)
                    offset += count
                    if left is not None:
                        left -= count
                        if left == 0:
                            return

    return pa.RecordBatchReader.from_batches(ROW, read())


def _cut(reader: pa.RecordBatchReader, part_rows: int) -> Iterator[pa.Table]:
    """Tables of `part_rows` rows, longer only where an image would be torn apart."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in reader:
        pending.append(batch)
        held += len(batch)
        if held <= part_rows:
            continue
        table = pa.Table.from_batches(pending)
        groups = table["first_row"].to_numpy()
        while len(table) > part_rows:
            end = part_rows
            while end < len(table) and groups[end] == groups[end - 1]:
                end += 1
            if end == len(table):
                break
            yield table.slice(0, end)
            table, groups = table.slice(end), groups[end:]
        pending, held = table.to_batches(), len(table)
    if held:
        yield pa.Table.from_batches(pending)


def _commit(store: PartStore, part: int, table: pa.Table, seconds: float) -> None:
    repeated = pa.compute.not_equal(table["row"], table["original"])
    again = table.filter(repeated)
    rows = table.filter(pa.compute.invert(repeated)).select(ROW.names).cast(ROW)
    with store.attempt(part) as attempt:
        attempt.write_table(ROWS, rows)
        if len(again):
            first = [f"first in row {row}" for row in again["original"].to_pylist()]
            reason = [REPEATED] * len(again)
            columns = [again["uid"], again["row"], again["url"], reason, first]
            dropped = pa.table(dict(zip(DROPPED_SCHEMA.names, columns, strict=True)))
            attempt.write_table(DROPPED_ROWS, dropped.cast(DROPPED_SCHEMA))
        attempt.commit(
            rows_in=len(table),
            rows_out=len(rows),
            dropped={REPEATED: len(again)} if len(again) else {},
            seconds=seconds,
        )
