"""Score nodes on one part: one decode for all, and poison rows found from the worker's journal."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from gristmill.dags.engine.operators import DROPPED_SCHEMA, PartOperator, went_well
from gristmill.dags.engine.part_worker import BlockScores, RowFailure, stage_at
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, RunLayout
from gristmill.dags.engine.supervision import FIRST_ROWS, Supervision
from gristmill.errors import GristmillError, StageError, StorageError
from gristmill.pipelines.child import ChildDied, ChildSilent
from gristmill.pipelines.heartbeat import Heartbeat
from gristmill.pipelines.schema import POISONED

# A block of rows for scoring closes at this many rows or decoded bytes, whichever comes first.
BLOCK_ROWS = 256
BLOCK_BYTES = 192 * 2**20


class ScoreOperator(PartOperator):
    """All Score nodes that see the same rows, on one part, sharing one decode."""

    def __init__(
        self,
        layout: RunLayout,
        nodes: Sequence[str],
        supervision: Supervision,
        *,
        retry_failed: bool = False,
    ) -> None:
        super().__init__(layout, nodes, supervision)
        self.retry_failed = retry_failed
        # Nodes that some row went through.
        self._sound: set[str] = set()
        # What does a part of which some nodes are done.
        self._rest: ScoreOperator | None = None

    def __call__(self, part: int) -> bool:
        """Score the rows of a part with the nodes that are not done yet."""
        todo = [node for node in self.nodes if self._has_work(node, part)]
        if not todo:
            return True
        if tuple(todo) != self.nodes:
            # Rare (a run was killed between two commits): score only what is missing.
            rest = ScoreOperator(
                self.layout, todo, self.supervision, retry_failed=self.retry_failed
            )
            self._rest = rest
            try:
                return rest(part)
            finally:
                self._rest = None
                rest.close()
        cost, seconds = self.worker.call_readonly("costs", part)
        scored: list[BlockScores] = []
        poisoned: dict[str, dict[int, str]] = {node: {} for node in self.nodes}
        splits = 0
        done = 0
        for block in blocks(cost):
            self.worker.on_beat(functools.partial(self._beat, part, done, len(block), len(cost)))
            for scores, cut in self._block(part, block, seconds, poisoned):
                scored.append(scores)
                splits += cut
            done += len(block)
            for node in self.nodes:
                self.told(node, part, done, len(cost))
        uids = self.worker.call_readonly("uids", part)
        for node in self.nodes:
            self._commit(node, part, uids, scored, poisoned[node], splits)
        return False

    def stop(self) -> None:
        """Have a call that another thread is in end soon."""
        super().stop()
        if self._rest is not None:
            self._rest.stop()

    def _has_work(self, node: str, part: int) -> bool:
        """Whether a node is to score a part. One with poison is tried again as a whole where that
        is asked for: its blocks are then those of a run without it, and so are the bytes."""
        record = self.fresh(node, part)
        return record is None or (self.retry_failed and bool(record.dropped))

    def _beat(self, part: int, before: int, block: int, of: int, beat: Heartbeat) -> None:
        """A node has gone through a share of a block, with `before` rows in the blocks before."""
        node, share = beat
        self.told(node, part, before + int(share * block), of)

    def _block(
        self,
        part: int,
        rows: list[int],
        seconds: Sequence[float],
        poisoned: dict[str, dict[int, str]],
    ) -> Iterator[tuple[BlockScores, int]]:
        """Score a block; yields scores and how often it had to be split. `seconds`: what each row
        may take beyond a row's deadline.

        If its worker dies twice, rows are tried one by one to find the poison, and the block goes
        again without it, so that a chance kill leaves no trace in the bytes.
        """
        deadline = self.supervision.row_deadline_s * (1 + len(rows) / 16)
        deadline += sum(seconds[row] for row in rows)
        for attempt in range(2):
            without = {node: list(bad) for node, bad in poisoned.items()}
            self.worker.call_readonly("load", part, rows)
            try:
                scores = self.worker.call("score_block", part, rows, without, deadline_s=deadline)
                self._sound |= {node for node in self.nodes if scores.rows[node]}
                yield scores, 0
                return
            except (StageError, StorageError):
                # Not the rows' fault.
                raise
            except GristmillError as error:
                failure = error
                if not isinstance(error, ChildDied) or attempt == 1:
                    break
        if not self.supervision.isolate:
            raise failure
        pairs = [(row, node) for node in self.nodes for row in rows if row not in poisoned[node]]
        found = self._find_poison(part, pairs, max(seconds[row] for row in rows))
        for node in self.nodes:
            outcomes = [found.get((row, name)) for row, name in pairs if name == node]
            sound = [why for why in outcomes if why is None or not why.undecodable]
            if len(sound) > 1 and sound[0] is not None and None not in sound:
                # Not one row went through: the stage is broken, not the rows.
                self._refuse(node, sound[0])
        for (row, node), why in found.items():
            poisoned[node][row] = why.message
        if found:
            yield from self._block(part, rows, seconds, poisoned)
        elif len(rows) > 1:
            # Each row alone is fine, together they are not: memory. Half is tried, and recorded.
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                for scores, cut in self._block(part, half, seconds, poisoned):
                    yield scores, cut + 1
        else:
            raise failure

    def _find_poison(
        self, part: int, pairs: list[tuple[int, str]], seconds: float
    ) -> dict[tuple[int, str], RowFailure]:
        """(row, node) pairs that kill, hang or break the worker, found from its journal.

        Raises `StageError` as soon as the first `FIRST_ROWS` rows of a node that can be decoded
        have failed in the same place.
        """
        found: dict[tuple[int, str], RowFailure] = {}
        waiting = pairs
        while waiting:
            at = 0
            self.worker.call_readonly("load", part, sorted({row for row, _ in waiting}))
            try:
                for index, failure in self.worker.stream(
                    "score_each",
                    part,
                    waiting,
                    silence_s=self.supervision.row_deadline_s + seconds,
                ):
                    at = index
                    if failure is not None:
                        found[waiting[index]] = failure
                        self._refuse_broken(pairs, found, waiting[index])
                return found
            except (ChildDied, ChildSilent) as error:
                found[waiting[at]] = RowFailure(str(error))
                waiting = waiting[at + 1 :]
        return found

    def _refuse_broken(
        self,
        pairs: list[tuple[int, str]],
        found: dict[tuple[int, str], RowFailure],
        last: tuple[int, str],
    ) -> None:
        """Stop at the `FIRST_ROWS`-th failure of a node's first rows, if all are one failure."""
        node = last[1]
        tried = [pair for pair in pairs[: pairs.index(last) + 1] if pair[1] == node]
        whys = [found.get(pair) for pair in tried]
        whys = [why for why in whys if why is None or not why.undecodable]
        first = whys[0] if whys else None
        if first is None or not first.place or len(whys) != FIRST_ROWS:
            return
        if all(why is not None and why.place == first.place for why in whys):
            self._refuse(node, first)

    def _refuse(self, node: str, failure: RowFailure) -> None:
        """Raise `StageError`, unless the stage went well with some other row of the run."""
        if node in self._sound or went_well(self.layout, node):
            return
        # It may be in the middle of the rest.
        self.close()
        raise StageError(
            f"{stage_at(node, self.layout.dag.stage(node))} fails on every row it is given: "
            f"{failure.message}{self._unread(node, failure)}\n{failure.traceback}"
        )

    def _unread(self, node: str, failure: RowFailure) -> str:
        """A hint for a column that enters the node, and that the stage asks for without having
        named it."""
        if "KeyError" not in failure.message:
            return ""
        columns = self.layout.dag.columns(node)
        named = self.layout.dag.stage(node).resolve_columns(columns)
        for name in columns.names:
            if name not in named and (
                f'"{name}"' in failure.message or f"'{name}'" in failure.message
            ):
                return f" ({name!r} enters the node, but the stage's reads() does not name it)"
        return ""

    def _commit(
        self,
        node: str,
        part: int,
        uids: list[str],
        scored: list[BlockScores],
        poisoned: dict[int, str],
        splits: int,
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
                inputs=self.layout.input_digests(node, part),
                rows_in=len(uids),
                rows_out=len(rows),
                dropped={POISONED: len(bad)} if bad else {},
                block_splits=splits,
                seconds=sum(scores.seconds[node] for scores in scored),
                peak_rss_mb=self.worker.peak_mb(),
            )


def blocks(cost: Sequence[int]) -> list[list[int]]:
    """Consecutive rows in blocks bounded by rows and decoded bytes; a function of the data
    alone."""
    found: list[list[int]] = []
    current: list[int] = []
    held = 0
    for row, size in enumerate(cost):
        if current and (len(current) >= BLOCK_ROWS or held + size > BLOCK_BYTES):
            found.append(current)
            current, held = [], 0
        current.append(row)
        held += size
    return [*found, current] if current else found
