"""What runners run: an operator takes the number of a part or a task, does it, commits it.

Operators hold no open resources until first called, so they travel to workers by pickle.
"""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.committed_together import commit_together
from gristmill.dags.engine.cut_record import first_part
from gristmill.dags.engine.pace_keeper import is_paced
from gristmill.dags.engine.part_worker import stage_at
from gristmill.dags.engine.records import CommitFacts, Record
from gristmill.dags.engine.rows_done import RowsDone
from gristmill.dags.engine.run_folder import PartStore, RunLayout
from gristmill.dags.engine.supervision import Supervised, Supervision
from gristmill.dags.engine.workspace import NodeWorkspace, node_workspace
from gristmill.dags.graph import is_row_stage
from gristmill.errors import DiskFullError, GristmillError, StageError, StorageError
from gristmill.pipelines.contract import check_columns
from gristmill.pipelines.schema import POISONED
from gristmill.pipelines.sealed import find_sealed, write_sealed
from gristmill.pipelines.stage import Global, Needs, Phase, Stage, Write

# Parts whose columns one task commits; a task of them is seconds.
PARTS_A_TASK = 32
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.string()),
    ]
)


class PartOperator:
    """Work on the rows of parts, by one or several nodes."""

    holds_worker = True
    # What is told how many rows of a part are done, on the way; nobody may listen.
    tell: RowsDone | None = None
    # Whether others work beside it on the same cores.
    shares = False

    def __init__(self, layout: RunLayout, nodes: Sequence[str], supervision: Supervision) -> None:
        self.layout, self.nodes, self.supervision = layout, tuple(nodes), supervision
        self._supervised: Supervised | None = None

    @property
    def worker(self) -> Supervised:
        """The worker, started at first use."""
        if self._supervised is None:
            self._supervised = Supervised(
                self.layout, self.nodes, self.supervision, shares=self.shares
            )
        return self._supervised

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        needs = [self.layout.dag.stage(node).needs() for node in self.nodes]
        # Of what each node occupies, a process with a block of pictures is the same for all.
        shared = min(Needs().memory_gb, max(need.memory_gb for need in needs))
        return Needs(
            cpus=max(need.cpus for need in needs),
            gpus=max(need.gpus for need in needs),
            memory_gb=shared + sum(max(need.memory_gb - shared, 0.0) for need in needs),
        )

    @property
    def is_paced(self) -> bool:
        """Whether it asks hosts at a pace that all workers share."""
        return is_paced(self.layout.dag, self.nodes)

    def fresh(self, node: str, part: int) -> Record | None:
        """The record of a part that is done and built on what lies above it now."""
        record = self.layout.store(node).record(part)
        if record is not None and dict(record.inputs) == self.layout.input_digests(node, part):
            return record
        return None

    def told(self, node: str, part: int, done: int, of: int) -> None:
        """Say that `done` of the `of` rows of a part have gone through a node."""
        if self.tell is not None:
            self.tell(node, part, done, of)

    def stop(self) -> None:
        """Have a call that another thread is in end soon."""
        if self._supervised is not None:
            self._supervised.stop()

    def close(self) -> None:
        """End the worker."""
        if self._supervised is not None:
            self._supervised.close()
            self._supervised = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_supervised": None}

    def __call__(self, part: int) -> bool:
        """Do one part; True if there was nothing to do."""
        raise NotImplementedError


class PhaseOperator:
    """One phase of a Global or Write node; a task that was committed is not done again."""

    holds_worker = False
    shares = False

    def __init__(self, layout: RunLayout, node: str, phase: str, parts: int) -> None:
        self.layout, self.node, self.phase, self.parts = layout, node, phase, parts

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        return self.layout.dag.stage(self.node).needs()

    def count(self) -> int:
        """Number of tasks, known once the phases before are done."""
        with self._at_work() as workspace:
            return int(self._phase().count(workspace))

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[NodeWorkspace]:
        stage = self.layout.dag.stage(self.node)
        with (
            blamed_on(self.node, stage),
            node_workspace(self.layout, self.node, self.parts) as workspace,
        ):
            yield workspace

    def _phase(self) -> Phase:
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, (Global, Write))
        return next(phase for phase in stage.phases() if phase.name == self.phase)

    def __call__(self, task: int) -> bool:
        """Do one task; True if it was done before."""
        folder = self.layout.folder.sub(self.layout.last_folder(self.node))
        name = f"phase-{self.phase}/{task:06d}.json"
        if find_sealed(folder, name) is not None:
            return True
        start = time.perf_counter()
        with self._at_work() as workspace:
            self._phase().work(workspace, task)
        seconds = time.perf_counter() - start
        write_sealed(folder, name, {"seconds": seconds, **workspace.wrote})
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        """Nothing is held."""


class ColumnsOperator:
    """After the phases of a Global node: its columns, some parts a task, committed together."""

    holds_worker = False
    shares = False

    def __init__(self, layout: RunLayout, node: str, parts: int) -> None:
        self.layout, self.node, self.parts = layout, node, parts

    def needs(self) -> Needs:
        """What one worker of this operator occupies."""
        return self.layout.dag.stage(self.node).needs()

    def __call__(self, task: int) -> bool:
        """Commit the columns of some parts; those of lists before the last stand."""
        end = min((task + 1) * PARTS_A_TASK, self.parts)
        first = max(task * PARTS_A_TASK, first_part(self.layout))
        with (
            blamed_on(self.node, self._stage()),
            node_workspace(self.layout, self.node, self.parts) as workspace,
        ):
            done = (self._columns(workspace, part) for part in range(first, end))
            commit_together(self.layout.store(self.node), first, done)
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        """Nothing is held."""

    def _stage(self) -> Global:
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Global)
        return stage

    def _columns(self, workspace: NodeWorkspace, part: int) -> tuple[int, pa.Table, CommitFacts]:
        """The columns of a part, and its counts."""
        stage = self._stage()
        start = time.perf_counter()
        table = stage.columns(workspace, part)
        known, rows = stage.writes(), len(table)
        if "uid" in table.column_names:
            known = pa.schema([table.schema.field("uid"), *known])
        else:
            uids = workspace.rows(part, ["uid"])["uid"]
            rows = len(uids)
        table = check_columns(stage_at(self.node, stage), known, table, rows)
        if "uid" not in table.column_names:
            table = table.add_column(0, pa.field("uid", pa.string(), nullable=False), uids)
        facts: CommitFacts = {
            "inputs": self.layout.input_digests(self.node, part),
            "rows_in": len(table),
            "rows_out": len(table),
        }
        if is_row_stage(stage):
            verdicts = table["verdict"].to_pylist()
            reasons = table["reason"].filter(pc.equal(table["verdict"], "dropped"))
            facts["rows_out"], facts["merged"] = verdicts.count("kept"), verdicts.count("merged")
            facts["dropped"] = count_values(reasons.to_pylist())
        facts["seconds"] = time.perf_counter() - start
        return part, table, facts


@contextlib.contextmanager
def blamed_on(node: str, stage: Stage) -> Iterator[None]:
    """Exceptions of a stage's own become a `StageError` that names the node; those of storage, and
    of ours, pass through."""
    try:
        yield
    except GristmillError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no room left at {stage_at(node, stage)}; everything committed stays: make room "
                "and run the same command again"
            ) from error
        raise StorageError(
            f"{stage_at(node, stage)} cannot read or write: {type(error).__name__}: {error}; "
            "everything committed stays: run the same command again when it can"
        ) from error
    except Exception as error:
        raise StageError(
            f"{stage_at(node, stage)} fails: {type(error).__name__}: {error}\n"
            f"{traceback.format_exc()}"
        ) from error


def went_well(layout: RunLayout, node: str) -> bool:
    """Whether some row of some part went through a node, whoever did it."""
    records = PartStore(layout.store(node).folder).records()
    return any(record.rows_out for record in records.values())


def failure_reasons(failed: pa.Table) -> list[str]:
    """The reason of each failed row: `poisoned`, else its error, else its status."""
    return [
        status if status == POISONED else error or status
        for status, error in zip(
            failed["status"].to_pylist(), failed["error"].to_pylist(), strict=True
        )
    ]


def count_values(values: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in sorted(values):
        counts[value] = counts.get(value, 0) + 1
    return counts
