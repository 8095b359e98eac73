"""One Map node on one part: rows that kill their worker, or over which the stage raises, are found
and set aside."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.dags.engine.checked import copy_checked
from gristmill.dags.engine.operators import PartOperator, count_values, failure_reasons, went_well
from gristmill.dags.engine.part_worker import BlockFailure, RowFailure, stage_at
from gristmill.dags.engine.records import Record
from gristmill.dags.engine.rows import make_scratch
from gristmill.dags.engine.run_folder import BLOBS, ROWS, PartStore, RunLayout
from gristmill.dags.engine.supervision import FIRST_ROWS, Supervision
from gristmill.dags.graph import BLOB, stores_images
from gristmill.errors import StageError, StorageError, WorkerError
from gristmill.pipelines.child import ChildDied, ChildSilent
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.schema import GOING_ON, MERGED, POISONED, SUCCESS
from gristmill.pipelines.stage import Map


class MapOperator(PartOperator):
    """One Map node on one part."""

    def __init__(
        self, layout: RunLayout, node: str, supervision: Supervision, *, retry_failed: bool = False
    ) -> None:
        super().__init__(layout, (node,), supervision)
        self.node, self.retry_failed = node, retry_failed
        # Rows of the part at work whose segments are written.
        self._settled = 0
        # Whether some row went through, and why those of the part at work did not.
        self._sound = False
        self._failures: list[RowFailure] = []

    def __call__(self, part: int) -> bool:
        """Map the rows of a part, or the rows worth another try."""
        record = self.fresh(self.node, part)
        store = self.layout.store(self.node)
        rows: list[int] | None = None
        old: tuple[pa.Table, Record] | None = None
        if record is not None:
            rows = self._worth_retrying(store, record) if self.retry_failed else []
            if not rows:
                return True
            old = (store.table(record), record)
        start = time.perf_counter()
        self._settled, self._failures = 0, []
        scratch = make_scratch(self.layout)
        try:
            segments = list(self._segments(part, rows, scratch))
            whys = [why for why in self._failures if not why.undecodable]
            if len(whys) > 1 and not self._sound:
                self._refuse(whys[0])
            self._commit(part, segments, old, start, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return False

    def _stage(self) -> Map:
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Map)
        return stage

    def _stage_at(self) -> str:
        return stage_at(self.node, self._stage())

    def _worth_retrying(self, store: PartStore, record: Record) -> list[int]:
        stage = self._stage()
        table = store.table(record, columns=["uid", "parent_uid", "status", "error"])
        failed = {
            uid
            for uid, status, error in zip(
                table["uid"].to_pylist(),
                table["status"].to_pylist(),
                table["error"].to_pylist(),
                strict=True,
            )
            if status == POISONED or (status != SUCCESS and stage.is_retryable(status, error or ""))
        }
        if not failed:
            return []
        entering = self.worker.call_readonly("uids", record.part)
        return [i for i, uid in enumerate(entering) if uid in failed]

    def _segments(self, part: int, rows: list[int] | None, scratch: str) -> Iterator[str]:
        """Map rows into segment files; a block whose worker dies twice, or over which the stage
        raises, is halved down to a row."""
        path = os.path.join(scratch, f"segment-{len(os.listdir(scratch)):06d}")
        size = self.worker.call_readonly("size", part)
        reason = ""
        for attempt in range(2):
            try:
                failed = self._mapped(part, rows, path, size)
                if failed is None:
                    self._settled += size if rows is None else len(rows)
                    yield path
                    return
                reason = failed.message
                break
            except StageError:
                raise
            except WorkerError as error:
                raise StageError(f"{self._stage_at()}: {error}") from error
            except (ChildDied, ChildSilent) as error:
                failed, reason = None, str(error)
                if isinstance(error, ChildSilent) and attempt == 0:
                    break
        if rows is None:
            rows = list(range(size))
        groups = self.worker.call_readonly("groups", part, rows)
        if len(groups) == 1:
            if failed is not None:
                self._row_failed(failed)
            self.worker.call_readonly("write_poisoned", part, rows, reason, path)
            self._settled += len(rows)
            yield path
            return
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            yield from self._segments(part, [row for group in half for row in group], scratch)

    def _mapped(self, part: int, rows: list[int] | None, path: str, size: int) -> RowFailure | None:
        """Map rows into a segment; why it was not written, if the stage raised over several."""
        failed, done = 0, 0
        block: RowFailure | None = None
        isolate = self.supervision.isolate
        row_by_row = self._stage().takes_bytes
        for item in self.worker.stream(
            "map_rows", part, rows, path, isolate, silence_s=self.supervision.map_silence_s
        ):
            if isinstance(item, BlockFailure):
                # The last item; the stream is read to its end, or the next answer would be its.
                block = item.why
                continue
            if isinstance(item, RowFailure):
                failed += 1
                self._row_failed(item)
                continue
            done = item
            # What comes of several rows together counts when nothing was raised over any.
            self._sound |= row_by_row and done > failed
            self.told(self.node, part, self._settled + done, size)
        self._sound |= block is None and done > failed
        return block

    def _row_failed(self, failure: RowFailure) -> None:
        """Count a row; raise `StageError` once the first rows have all failed in one place."""
        self._failures.append(failure)
        whys = [why for why in self._failures if not why.undecodable]
        if not self._sound and len(whys) == FIRST_ROWS and len({why.place for why in whys}) == 1:
            self._refuse(whys[0])

    def _refuse(self, failure: RowFailure) -> None:
        """Raise `StageError`, unless the stage went well with some row of another part."""
        if went_well(self.layout, self.node):
            return
        # It may be in the middle of the rest.
        self.close()
        raise StageError(
            f"{self._stage_at()} fails on every row it is given: "
            f"{failure.message}\n{failure.traceback}"
        )

    def _commit(
        self,
        part: int,
        segments: list[str],
        old: tuple[pa.Table, Record] | None,
        start: float,
        scratch: str,
    ) -> None:
        store = self.layout.store(self.node)
        tables = [pq.read_table(f"{path}.parquet") for path in segments]
        blobs = [f"{path}.blobs" for path in segments]
        if old is not None:
            table, record = old
            again = pa.concat_tables(tables)["uid"]
            before = os.path.join(scratch, "before.blobs")
            copy_checked(store.folder, record.files[BLOBS], before)
            kept = _with_digests(table, tables[0].schema)
            tables.append(kept.filter(pc.invert(pc.is_in(table["uid"], again))))
            blobs.append(before)
        # A segment may have its columns in another order than the one before it.
        rows = pa.concat_tables([table.select(tables[0].column_names) for table in tables])
        whence = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        if pc.count_distinct(rows["uid"]).as_py() != len(rows):
            raise StageError(
                f"{self._stage_at()} yields a uid twice in part {part}; each row has its own: "
                "that of a new row is make_child_uid(parent_uid, stage, number)"
            )
        if old is not None:
            order = _positions(old[0]["uid"], rows["uid"])
            rows, whence = rows.take(order), whence[order.to_numpy()]
        with store.attempt(part) as attempt:
            with attempt.output(BLOBS, "bin") as file:
                if stores_images(self.layout.dag.stage(self.node)):
                    rows = _packed(rows, whence.tolist(), blobs, file)
            attempt.write_table(ROWS, rows.combine_chunks())
            statuses = rows["status"].to_pylist()
            rows_in = self.worker.call_readonly("size", part)
            attempt.commit(
                inputs=self.layout.input_digests(self.node, part),
                rows_in=rows_in,
                rows_added=len(rows) - rows_in,
                rows_out=sum(statuses.count(status) for status in GOING_ON),
                dropped=_reasons(rows),
                merged=statuses.count(MERGED),
                seconds=time.perf_counter() - start,
                peak_rss_mb=self.worker.peak_mb(),
            )


def _with_digests(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of a part that may be of a time before digests were kept, in the form of today."""
    for field in BLOB:
        if field.name in schema.names and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names)


def _packed(
    rows: pa.Table, whence: Sequence[int], blobs: Sequence[str], file: DigestWriter
) -> pa.Table:
    """Write the stored bytes of rows in the order of the rows, and not in that in which they came,
    so that the same rows are the same file; returns the rows with where their bytes lie now.

    `whence`: which of the files `blobs` each row's offset is in.
    """
    places: dict[tuple[int, int], int] = {}
    offsets: list[int | None] = []
    columns = (rows["blob_offset"].to_pylist(), rows["blob_size"].to_pylist())
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(path, "rb")) for path in blobs]
        for source, at, size in zip(whence, *columns, strict=True):
            if at is None:
                offsets.append(None)
                continue
            if (source, at) not in places:
                places[source, at] = file.size
                opened[source].seek(at)
                data = opened[source].read(size)
                if len(data) != size:
                    raise StorageError(
                        f"{blobs[source]} is shorter than it was written; everything committed "
                        "stays: run the same command again"
                    )
                file.write(data)
            offsets.append(places[source, at])
    index = rows.schema.get_field_index("blob_offset")
    return rows.set_column(index, rows.schema.field(index), pa.array(offsets, pa.int64()))


def _positions(order: pa.ChunkedArray, uids: pa.ChunkedArray) -> pa.Array:
    """Indices that bring `uids` into `order`."""
    place = {uid: i for i, uid in enumerate(order.to_pylist())}
    return pa.array(np.argsort([place[uid] for uid in uids.to_pylist()], kind="stable"))


def _reasons(rows: pa.Table) -> dict[str, int]:
    """Why rows ended at a Map node: the error, else the status."""
    failed = rows.filter(pc.invert(pc.is_in(rows["status"], pa.array([*GOING_ON, MERGED]))))
    return count_values(failure_reasons(failed))
