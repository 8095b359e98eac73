"""From a source to parts: chunks are scanned in parallel, then put into one deterministic order.

Rows that are captions of one image come to lie together, at the place of the first, and never in
two parts, so that an image is fetched once. A row that the source holds twice stays once; the
others go to the ledger as `repeated row`, also where an earlier list has it, and captions of an
image beyond those that the source takes as `above source.captions_per_image`. DuckDB sorts, within
a memory limit, spilling to the run's disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.dags.engine.attempt import Attempt
from gristmill.dags.engine.checked import copy_checked
from gristmill.dags.engine.cut_record import first_part, first_row, write_cut
from gristmill.dags.engine.known_rows import REPEATED, read_rows
from gristmill.dags.engine.operators import DROPPED_SCHEMA
from gristmill.dags.engine.records import Record
from gristmill.dags.engine.rows import make_scratch
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, PartStore, RunLayout
from gristmill.dags.graph import Dag
from gristmill.errors import SourceError
from gristmill.pipelines.database import open_database
from gristmill.pipelines.patience import is_of_storage, may_heal, waits
from gristmill.pipelines.schema import ROW
from gristmill.pipelines.stage import Needs

_Found = TypeVar("_Found")
TOO_MANY = "above source.captions_per_image"
# Rows with the first of their image and of their kind, which may be of a list before, and the place
# of each caption among those of its image; of a row that is there twice, among its repetitions.
_SORTED = """
SELECT *, row_number() OVER (PARTITION BY image_id, row = original ORDER BY row)
    + CASE WHEN row = original THEN known_captions ELSE 0 END AS place
FROM (
    SELECT rows.*, min(rows.row) OVER (PARTITION BY rows.image_id) AS first_row,
        coalesce(there.row, min(rows.row) OVER (PARTITION BY rows.uid)) AS original,
        coalesce(images.captions, 0) AS known_captions
    FROM rows LEFT JOIN there ON rows.uid = there.uid
    LEFT JOIN (
        SELECT image_id, count(*) AS captions FROM there
        WHERE image_id IS NOT NULL GROUP BY image_id
    ) AS images ON rows.image_id = images.image_id
)
ORDER BY first_row, row
"""
SORT_MEMORY = "1GB"


def ask_source(dag: Dag, work: Callable[[], _Found]) -> _Found:
    """What `work` says of a source, tried again where its storage fails; then a `SourceError`."""
    again = waits()
    while True:
        try:
            return work()
        except Exception as error:
            if not is_of_storage(error):
                raise
            if not may_heal(error) or not again(error):
                raise _unreadable(dag, error) from error


def _unreadable(dag: Dag, error: Exception) -> SourceError:
    return SourceError(
        f"the source of {dag.name} cannot be read: {type(error).__name__}: {error}; run the same "
        "command again when it can"
    )


class _SourceSilentError(Exception):
    """What the storage of a source said, so that it is not taken for that of the run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ScanOperator:
    """Reads one chunk of a source into a table of raw rows."""

    holds_worker = False
    shares = False

    def __init__(self, layout: RunLayout) -> None:
        self.layout, self.stage = layout, layout.reading
        self.chunks = ask_source(layout.dag, self.stage.chunks)

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        return self.stage.needs()

    def __call__(self, task: int) -> bool:
        """Scan a chunk; True if it was scanned before."""
        store = scans(self.layout)
        if store.record(task) is not None:
            return True
        start = time.perf_counter()
        again = waits()
        while True:
            try:
                with store.attempt(task) as attempt:
                    rows = self._scan(attempt, task)
                    attempt.commit(rows_out=rows, seconds=time.perf_counter() - start)
                return False
            except _SourceSilentError as silent:
                # A read error says nothing about the rows that were to come.
                error = silent.error
                if not may_heal(error) or not again(error):
                    raise _unreadable(self.layout.dag, error) from error

    def _scan(self, attempt: Attempt, task: int) -> int:
        """Write the rows of a chunk; returns how many."""
        rows, limit = 0, self.layout.rows_to_take
        with (
            attempt.output(ROWS, "arrow") as file,
            pa.ipc.new_stream(pa.PythonFile(file, "w"), ROW) as writer,
        ):
            for table in self._read(task):
                if limit and rows + len(table) > limit:
                    table = table.slice(0, limit - rows)
                writer.write_table(table.cast(ROW))
                rows += len(table)
                if limit and rows >= limit:
                    break
        return rows

    def _read(self, task: int) -> Iterator[pa.Table]:
        try:
            yield from self.stage.read(self.chunks[task])
        except Exception as error:
            if is_of_storage(error):
                raise _SourceSilentError(error) from error
            raise

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        """Nothing is held."""


def scans(layout: RunLayout) -> PartStore:
    """Where scanned chunks of the last list lie."""
    return PartStore(layout.folder.sub(f"{layout.last_folder(layout.dag.source)}/scan"))


def cut_parts(layout: RunLayout, chunks: int) -> int:
    """Sort all scanned rows of the last list, set aside those that it, or a list before it, has
    twice, cut parts of `part_rows`. Returns how many parts there are, of all lists."""
    store = layout.store(layout.dag.source)
    start = time.perf_counter()
    first, rows = first_part(layout), first_row(layout)
    number, before = first, rows
    # By a look of its own: others do not know yet what is written here.
    there = PartStore(store.folder).records() if layout.additions else {}
    records = {part: record for part, record in there.items() if part < first}
    most = layout.reading.most_captions()
    scratch = make_scratch(layout)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, scratch)
        database = stack.enter_context(open_database(scratch, memory=SORT_MEMORY))
        read_rows(database, layout, _scanned(layout, chunks, scratch))
        reader = database.sql(_SORTED).to_arrow_reader(min(10_000, max(layout.dag.part_rows, 100)))
        for table in _cut(reader, layout.dag.part_rows, most):
            records[number] = _write(store, number, table, most, time.perf_counter() - start)
            rows += len(table)
            number, start = number + 1, time.perf_counter()
    if rows == before:
        raise SourceError(f"the source of {layout.dag.name} has no rows; is the path right?")
    store.replace(records)
    write_cut(layout, number, rows, chunks)
    return number


def _remove(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _scanned(layout: RunLayout, chunks: int, scratch: str) -> pa.RecordBatchReader:
    """All scanned rows in source order, `row` counted over all lists, up to the limit."""
    store, path = scans(layout), os.path.join(scratch, "scanned.arrow")

    def read() -> Iterator[pa.RecordBatch]:
        offset, left = first_row(layout), layout.rows_to_take or None
        index = ROW.get_field_index("row")
        for chunk in range(chunks):
            # What was scanned and cannot be read is no end of the source.
            copy_checked(store.folder, store.need(chunk).files[ROWS], path)
            with open(path, "rb") as file:
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


def _cut(reader: pa.RecordBatchReader, part_rows: int, most: int) -> Iterator[pa.Table]:
    """Tables of `part_rows` rows, longer only where an image would be torn apart: up to the
    captions that are taken of it."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in reader:
        pending.append(batch)
        held += len(batch)
        if held <= part_rows:
            continue
        table = pa.Table.from_batches(pending)
        groups = np.where(_too_many(table, most), -1 - table["row"].to_numpy(), table["first_row"])
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


def _repeated(table: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(table["row"].to_numpy() != table["original"].to_numpy(), bool)


def _too_many(table: pa.Table, most: int) -> NDArray[np.bool_]:
    """Which rows are captions of an image beyond the first `most`, or repetitions beyond as
    many."""
    return np.asarray(table["place"].to_numpy() > (most or np.inf), bool)


def _write(store: PartStore, part: int, table: pa.Table, most: int, seconds: float) -> Record:
    """Write the files of a part; its record is for whoever has them all."""
    repeated, too_many = _repeated(table), _too_many(table, most)
    gone = repeated | too_many
    rows = table.filter(pa.array(~gone)).select(ROW.names).cast(ROW)
    with store.attempt(part) as attempt:
        attempt.write_table(ROWS, rows)
        reasons = np.where(repeated[gone], REPEATED, TOO_MANY).tolist()
        if reasons:
            aside = table.filter(pa.array(gone))
            facts = zip(
                reasons, aside["original"].to_pylist(), aside["place"].to_pylist(), strict=True
            )
            value = [
                f"first in row {first}" if reason == REPEATED else f"caption {place:,} of it"
                for reason, first, place in facts
            ]
            columns = [aside["uid"], aside["row"], aside["url"], reasons, value]
            dropped = pa.table(dict(zip(DROPPED_SCHEMA.names, columns, strict=True)))
            attempt.write_table(DROPPED_ROWS, dropped.cast(DROPPED_SCHEMA))
        return attempt.leave(
            rows_in=len(table),
            rows_out=len(rows),
            dropped=dict(Counter(reasons)),
            seconds=seconds,
        )
