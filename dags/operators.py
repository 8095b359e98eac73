"""What runners run: an operator takes the number of a part or a task, does it, commits it.

Operators hold no open resources until first called, so they travel to workers by pickle. Work on
rows goes through a supervised child process; a row that kills or hangs it is found and set aside.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.graph import BLOB, is_row_stage
from gristmill.dags.part_worker import BlockScores, PartWorker
from gristmill.dags.rows import make_scratch, node_workspace
from gristmill.dags.run_folder import BLOBS, DROPPED_ROWS, ROWS, Layout, PartStore, Record
from gristmill.errors import WorkerError
from gristmill.pipelines.child import Child, ChildDied, ChildSilent
from gristmill.pipelines.schema import POISONED, SUCCESS, with_columns
from gristmill.pipelines.stage import Global, Map, Needs, Write

# A block of rows for scoring closes at this many rows or decoded bytes, whichever comes first.
BLOCK_ROWS = 256
BLOCK_BYTES = 192 * 2**20
# Seconds for what only reads a part's columns.
_ASK_S = 600.0

DROPPED_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.string()),
    ]
)


@dataclass(frozen=True)
class Supervision:
    """How the work on rows is watched."""

    # False: stages run in this very process, for a debugger; a poison row then takes it down.
    isolate: bool = True
    # Seconds one row may take before it counts as hanging; a block gets a multiple.
    row_deadline_s: float = 30.0
    # Seconds a Map may be silent; a download is silent while every row waits for its timeout.
    map_silence_s: float = 600.0


class Supervised:
    """A `PartWorker` in a child process, or in this one when debugging."""

    def __init__(self, layout: Layout, nodes: Sequence[str], supervision: Supervision) -> None:
        self.supervision = supervision
        self._make = functools.partial(PartWorker, layout, tuple(nodes))
        self._child = Child(self._make) if supervision.isolate else None
        self._here: PartWorker | None = None

    def start(self) -> None:
        """Have a worker that is ready; one that is killed while it starts is started again."""
        for attempt in range(3):
            try:
                if self._child is not None:
                    self._child.start()
                return
            except ChildDied:
                if attempt == 2:
                    raise

    def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        """Call a method of the worker."""
        self.start()
        if self._child is not None:
            return self._child.call(method, *args, deadline_s=deadline_s)
        return getattr(self._worker(), method)(*args)

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method that runs no stage; a worker that dies meanwhile was killed by chance."""
        for _ in range(2):
            with contextlib.suppress(ChildDied):
                return self.call(method, *args, deadline_s=_ASK_S)
        return self.call(method, *args, deadline_s=_ASK_S)

    def stream(self, method: str, *args: Any, silence_s: float) -> Iterator[Any]:
        """Iterate a generator method of the worker."""
        self.start()
        if self._child is not None:
            return self._child.stream(method, *args, silence_s=silence_s)
        generator: Iterator[Any] = getattr(self._worker(), method)(*args)
        return generator

    def _worker(self) -> PartWorker:
        if self._here is None:
            self._here = self._make()
        return self._here

    def peak_mb(self) -> float:
        """Resident memory of the child now, MB; 0 without one."""
        if self._child is None or self._child.pid is None:
            return 0.0
        try:
            return float(psutil.Process(self._child.pid).memory_info().rss) / 2**20
        except psutil.Error:
            return 0.0

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._here = None


class PartOperator:
    """Work on the rows of parts, by one or several nodes."""

    holds_worker = True

    def __init__(self, layout: Layout, nodes: Sequence[str], supervision: Supervision) -> None:
        self.layout, self.nodes, self.supervision = layout, tuple(nodes), supervision
        self._supervised: Supervised | None = None

    @property
    def worker(self) -> Supervised:
        """The worker, started at first use."""
        if self._supervised is None:
            self._supervised = Supervised(self.layout, self.nodes, self.supervision)
        return self._supervised

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        needs = [self.layout.dag.stage(node).needs() for node in self.nodes]
        return Needs(
            cpus=max(need.cpus for need in needs),
            gpus=max(need.gpus for need in needs),
            memory_gb=sum(need.memory_gb for need in needs),
        )

    def input_digests(self, node: str, part: int) -> dict[str, str]:
        """Digests of the records of `part` that `node` builds on."""
        inputs = self.layout.dag.node(node).inputs
        return {other: self.layout.store(other).need(part).digest for other in inputs}

    def fresh(self, node: str, part: int) -> Record | None:
        """The record of a part that is done and built on what lies above it now."""
        record = self.layout.store(node).record(part)
        if record is not None and dict(record.inputs) == self.input_digests(node, part):
            return record
        return None

    def close(self) -> None:
        """End the worker."""
        if self._supervised is not None:
            self._supervised.close()
            self._supervised = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_supervised": None}

    def __call__(self, part: int) -> bool:
        """Do one part; True if there was nothing to do."""
        raise NotImplementedError


class MapOperator(PartOperator):
    """One Map node on one part."""

    def __init__(
        self, layout: Layout, node: str, supervision: Supervision, *, retry_failed: bool = False
    ) -> None:
        super().__init__(layout, (node,), supervision)
        self.node, self.retry_failed = node, retry_failed

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
        scratch = make_scratch(self.layout)
        try:
            segments = list(self._segments(part, rows, scratch))
            self._commit(part, segments, old, start)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return False

    def _worth_retrying(self, store: PartStore, record: Record) -> list[int]:
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Map)
        table = store.table(record, columns=["uid", "parent_uid", "status", "error"])
        failed = {
            uid
            for uid, status, error in zip(
                table["uid"].to_pylist(),
                table["status"].to_pylist(),
                table["error"].to_pylist(),
                strict=True,
            )
            if status != SUCCESS and stage.heals(status, error or "")
        }
        if not failed:
            return []
        entering = self.worker.ask("uids", record.part)
        return [i for i, uid in enumerate(entering) if uid in failed]

    def _segments(self, part: int, rows: list[int] | None, scratch: str) -> Iterator[str]:
        """Map rows into segment files; a block whose worker dies twice is halved down to a row."""
        path = os.path.join(scratch, f"segment-{len(os.listdir(scratch)):06d}")
        for attempt in range(2):
            try:
                for _ in self.worker.stream(
                    "map_rows", part, rows, path, silence_s=self.supervision.map_silence_s
                ):
                    pass
                yield path
                return
            except (ChildDied, ChildSilent) as error:
                reason = str(error)
                if isinstance(error, ChildSilent) and attempt == 0:
                    break
        if rows is None:
            rows = list(range(self.worker.ask("size", part)))
        if len(rows) == 1:
            self._write_poisoned(part, rows[0], reason, path)
            yield path
            return
        middle = len(rows) // 2
        yield from self._segments(part, rows[:middle], scratch)
        yield from self._segments(part, rows[middle:], scratch)

    def _write_poisoned(self, part: int, row: int, reason: str, path: str) -> None:
        """A segment with the one row that nothing could be done with."""
        table = self.worker.ask("row", part, row)
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Map)
        for field in [*stage.writes(), *BLOB]:
            if field.name not in (*table.column_names, "image"):
                table = table.append_column(field, pa.nulls(1, field.type))
        values = {"status": [POISONED], "error": [reason]}
        pq.write_table(with_columns(table, values, table.schema), f"{path}.parquet")
        with open(f"{path}.blobs", "wb"):
            pass

    def _commit(
        self, part: int, segments: list[str], old: tuple[pa.Table, Record] | None, start: float
    ) -> None:
        store = self.layout.store(self.node)
        tables = [pq.read_table(f"{path}.parquet") for path in segments]
        sources = [(f"{path}.blobs", os.path.getsize(f"{path}.blobs")) for path in segments]
        with store.attempt(part) as attempt:
            with attempt.output(BLOBS, "bin") as file:
                merged = []
                if old is not None:
                    table, record = old
                    again = pa.concat_tables(tables)["uid"]
                    keep = pa.compute.invert(pa.compute.is_in(table["uid"], again))
                    with store.folder.open(record.files[BLOBS]["name"]) as blobs:
                        shutil.copyfileobj(blobs, file, 2**20)
                    merged.append(table.filter(keep))
                for table, (path, _) in zip(tables, sources, strict=True):
                    merged.append(_shifted(table, file.size))
                    with open(path, "rb") as blobs:
                        shutil.copyfileobj(blobs, file, 2**20)
            rows = pa.concat_tables(merged)
            if old is not None:
                rows = rows.take(_positions(old[0]["uid"], rows["uid"]))
            attempt.write_table(ROWS, rows)
            origins = set(
                parent or uid
                for uid, parent in zip(
                    rows["uid"].to_pylist(), rows["parent_uid"].to_pylist(), strict=True
                )
            )
            attempt.commit(
                inputs=self.input_digests(self.node, part),
                rows_in=len(origins),
                born=len(rows) - len(origins),
                rows_out=rows["status"].to_pylist().count(SUCCESS),
                dropped=_reasons(rows),
                seconds=time.perf_counter() - start,
                peak_rss_mb=self.worker.peak_mb(),
            )


class ScoreOperator(PartOperator):
    """All Score nodes that see the same rows, on one part, sharing one decode."""

    def __call__(self, part: int) -> bool:
        """Score the rows of a part with the nodes that are not done yet."""
        todo = [node for node in self.nodes if self.fresh(node, part) is None]
        if not todo:
            return True
        if tuple(todo) != self.nodes:
            # Rare (a run was killed between two commits): score only what is missing.
            rest = ScoreOperator(self.layout, todo, self.supervision)
            try:
                return rest(part)
            finally:
                rest.close()
        pixels = self.worker.ask("pixel_counts", part)
        scored: list[BlockScores] = []
        poisoned: dict[str, dict[int, str]] = {node: {} for node in self.nodes}
        halved = 0
        for block in blocks(pixels):
            for scores, cut in self._block(part, block, poisoned):
                scored.append(scores)
                halved += cut
        uids = self.worker.ask("uids", part)
        for node in self.nodes:
            self._commit(node, part, uids, scored, poisoned[node], halved)
        return False

    def _block(
        self, part: int, rows: list[int], poisoned: dict[str, dict[int, str]]
    ) -> Iterator[tuple[BlockScores, int]]:
        """Score a block; yields scores and how often it had to be halved.

        If its worker dies twice, rows are tried one by one to find the poison, and the block goes
        again without it, so that a chance kill leaves no trace in the bytes.
        """
        deadline = self.supervision.row_deadline_s * (1 + len(rows) / 16)
        for attempt in range(2):
            without = {node: list(bad) for node, bad in poisoned.items()}
            try:
                yield (
                    self.worker.call("score_block", part, rows, without, deadline_s=deadline),
                    0,
                )
                return
            except (ChildDied, ChildSilent, WorkerError) as error:
                failure = error
                if not isinstance(error, ChildDied) or attempt == 1:
                    break
        if not self.supervision.isolate:
            raise failure
        pairs = [(row, node) for node in self.nodes for row in rows if row not in poisoned[node]]
        found = self._find_poison(part, pairs)
        for node in self.nodes:
            tried = [row for row, name in pairs if name == node]
            if len(tried) > 1 and all((row, node) in found for row in tried):
                # Not one row went through: the stage is broken, not the rows.
                raise WorkerError(
                    f"node {node!r} fails on every row it is given: {found[tried[0], node]}"
                )
        for (row, node), reason in found.items():
            poisoned[node][row] = reason
        if found:
            yield from self._block(part, rows, poisoned)
        elif len(rows) > 1:
            # Each row alone is fine, together they are not: memory. Half is tried, and recorded.
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                for scores, cut in self._block(part, half, poisoned):
                    yield scores, cut + 1
        else:
            raise failure

    def _find_poison(self, part: int, pairs: list[tuple[int, str]]) -> dict[tuple[int, str], str]:
        """(row, node) pairs that kill, hang or break the worker, found from its journal."""
        found: dict[tuple[int, str], str] = {}
        waiting = pairs
        while waiting:
            at = 0
            try:
                for index, raised, message in self.worker.stream(
                    "score_each", part, waiting, silence_s=self.supervision.row_deadline_s
                ):
                    at = index
                    if raised:
                        found[waiting[index]] = message
                return found
            except (ChildDied, ChildSilent) as error:
                found[waiting[at]] = str(error)
                waiting = waiting[at + 1 :]
        return found

    def _commit(
        self,
        node: str,
        part: int,
        uids: list[str],
        scored: list[BlockScores],
        poisoned: dict[int, str],
        halved: int,
    ) -> None:
        stage = self.layout.dag.stage(node)
        schema = stage.writes()
        rows = [row for scores in scored for row in scores.rows[node]]
        table = (
            pa.concat_tables([scores.tables[node] for scores in scored]).cast(schema)
            if scored
            else schema.empty_table()
        )
        table = table.take(pa.array(np.argsort(rows, kind="stable"), pa.int64()))
        kept = pa.array([uids[row] for row in sorted(rows)], pa.string())
        bad = sorted(poisoned)
        with self.layout.store(node).attempt(part) as attempt:
            for field in schema:
                if pa.types.is_fixed_size_list(field.type):
                    column = table[field.name].combine_chunks()
                    width = field.type.list_size
                    values = column.flatten().to_numpy(zero_copy_only=False)
                    attempt.write_array(field.name, values.reshape(-1, width))
                    table = table.drop_columns([field.name])
            table = table.add_column(0, pa.field("uid", pa.string(), nullable=False), kept)
            attempt.write_table(ROWS, table)
            if bad:
                dropped = {
                    "uid": [uids[row] for row in bad],
                    "row": [None] * len(bad),
                    "url": [None] * len(bad),
                    "reason": [POISONED] * len(bad),
                    "value": [poisoned[row] for row in bad],
                }
                attempt.write_table(DROPPED_ROWS, pa.table(dropped, schema=DROPPED_SCHEMA))
            attempt.commit(
                inputs=self.input_digests(node, part),
                rows_in=len(uids),
                rows_out=len(rows),
                dropped={POISONED: len(bad)} if bad else {},
                halved=halved,
                seconds=sum(scores.seconds[node] for scores in scored),
                peak_rss_mb=self.worker.peak_mb(),
            )


class PhaseOperator:
    """One phase of a Global or Write node; a task that was committed is not done again."""

    holds_worker = False

    def __init__(self, layout: Layout, node: str, phase: str, parts: int) -> None:
        self.layout, self.node, self.phase, self.parts = layout, node, phase, parts

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        return self.layout.dag.stage(self.node).needs()

    def count(self) -> int:
        """Number of tasks, known once the phases before are done."""
        with node_workspace(self.layout, self.node, self.parts) as workspace:
            return int(self._phase().count(workspace))

    def _phase(self) -> Any:
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, (Global, Write))
        return next(phase for phase in stage.phases() if phase.name == self.phase)

    def __call__(self, task: int) -> bool:
        """Do one task; True if it was done before."""
        folder = self.layout.folder.sub(self.layout.node_folder(self.node))
        name = f"phase-{self.phase}/{task:06d}.json"
        if folder.exists(name):
            return True
        start = time.perf_counter()
        with node_workspace(self.layout, self.node, self.parts) as workspace:
            self._phase().work(workspace, task)
        folder.write_json(name, {"seconds": time.perf_counter() - start})
        return False

    def close(self) -> None:
        """Nothing is held."""


class ColumnsOperator(PartOperator):
    """After the phases of a Global node: its columns for one part."""

    holds_worker = False

    def __init__(self, layout: Layout, node: str, parts: int) -> None:
        super().__init__(layout, (node,), Supervision())
        self.node, self.parts = node, parts

    def __call__(self, part: int) -> bool:
        """Commit the columns of a part."""
        if self.fresh(self.node, part) is not None:
            return True
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Global)
        start = time.perf_counter()
        with node_workspace(self.layout, self.node, self.parts) as workspace:
            table = stage.columns(workspace, part)
            if "uid" not in table.column_names:
                uids = workspace.rows(part, ["uid"])["uid"]
                table = table.add_column(0, pa.field("uid", pa.string(), nullable=False), uids)
        rows_out, dropped, merged = len(table), {}, 0
        if is_row_stage(stage):
            verdicts = table["verdict"].to_pylist()
            rows_out, merged = verdicts.count("kept"), verdicts.count("merged")
            reasons = table["reason"].filter(pa.compute.equal(table["verdict"], "dropped"))
            dropped = _count(reasons.to_pylist())
        with self.layout.store(self.node).attempt(part) as attempt:
            attempt.write_table(ROWS, table)
            attempt.commit(
                inputs=self.input_digests(self.node, part),
                rows_in=len(table),
                rows_out=rows_out,
                dropped=dropped,
                merged=merged,
                seconds=time.perf_counter() - start,
            )
        return False


def blocks(pixels: Sequence[int]) -> list[list[int]]:
    """Consecutive rows in blocks bounded by rows and decoded bytes; a function of the data
    alone."""
    found: list[list[int]] = []
    current: list[int] = []
    held = 0
    for row, count in enumerate(pixels):
        size = count * 3
        if current and (len(current) >= BLOCK_ROWS or held + size > BLOCK_BYTES):
            found.append(current)
            current, held = [], 0
        current.append(row)
        held += size
    return [*found, current] if current else found


def _shifted(table: pa.Table, by: int) -> pa.Table:
    """A segment's rows with their blobs moved `by` bytes."""
    if "blob_offset" not in table.column_names:
        return table
    moved = pa.compute.add(table["blob_offset"], pa.scalar(by, pa.int64()))
    index = table.schema.get_field_index("blob_offset")
    return table.set_column(index, table.schema.field(index), moved)


def _positions(order: pa.ChunkedArray, uids: pa.ChunkedArray) -> pa.Array:
    """Indices that bring `uids` into `order`."""
    place = {uid: i for i, uid in enumerate(order.to_pylist())}
    return pa.array(np.argsort([place[uid] for uid in uids.to_pylist()], kind="stable"))


def _reasons(rows: pa.Table) -> dict[str, int]:
    """Why rows ended at a Map node: the error, else the status."""
    failed = rows.filter(pa.compute.not_equal(rows["status"], SUCCESS))
    return _count(failure_reasons(failed))


def failure_reasons(failed: pa.Table) -> list[str]:
    """The reason of each failed row: `poisoned`, else its error, else its status."""
    return [
        status if status == POISONED else error or status
        for status, error in zip(
            failed["status"].to_pylist(), failed["error"].to_pylist(), strict=True
        )
    ]


def _count(values: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in sorted(values):
        counts[value] = counts.get(value, 0) + 1
    return counts
