"""Run a Dag into a run folder: lock, check, cut parts, stream chains, cross barriers, close the
ledger.

Whatever is committed is never done again; a run that was stopped at any point goes on with the same
command. The driver holds part numbers and counts, never rows.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.engine.barriers import barrier_state, finish, is_finished, make_room, reopen
from gristmill.dags.engine.check_weights import WeightsCheck, unfinished_loaders
from gristmill.dags.engine.cluster_address import cluster_address
from gristmill.dags.engine.cut_record import cut_done, first_part, first_row
from gristmill.dags.engine.lay_out import check_source, lay_out
from gristmill.dags.engine.ledger import NodeCount
from gristmill.dags.engine.ledger_writer import here, write_ledger
from gristmill.dags.engine.map_operator import MapOperator
from gristmill.dags.engine.nothing_kept import refuse_nothing
from gristmill.dags.engine.on_local import LocalRunner, Operator, Runner
from gristmill.dags.engine.operators import (
    PARTS_A_TASK,
    ColumnsOperator,
    PartOperator,
    PhaseOperator,
)
from gristmill.dags.engine.pace_keeper import is_paced
from gristmill.dags.engine.part_size import PARTS
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.read_parts import ScanOperator, ask_source, cut_parts, scans
from gristmill.dags.engine.run_folder import RunLayout, require_run_folder
from gristmill.dags.engine.run_lock import RunLock, run_lock
from gristmill.dags.engine.schedule import Barrier, Chain, parts_left, schedule
from gristmill.dags.engine.score_operator import ScoreOperator
from gristmill.dags.engine.stage_code import shipped_code
from gristmill.dags.engine.summary import (
    RunSummary,
    keep_outcomes,
    rule_warnings,
    summarise,
)
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.engine.watch import CommitWatch, ResourceWatch
from gristmill.dags.graph import Dag
from gristmill.errors import (
    ConfigurationError,
    LedgerError,
    MissingWeightsError,
    NothingKeptError,
    RunLockedError,
)
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.out_folder import require_writable
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.stage import Global, Map, Write

# A step over all of so many rows is done in the driver.
SMALL_ROWS = 100_000
_T = TypeVar("_T")


@dataclass(frozen=True)
class RunOptions:
    """How to run; nothing here changes what is written, but `limit`."""

    # "ray" or "local".
    runner: str = "ray"
    # Ray cluster to connect to; None: RAY_ADDRESS, else one started for this run.
    address: str | None = None
    # Workers for each operator at most; None: as many as there is room for.
    workers: int | None = None
    # Rows of the source to take; 0 means all.
    limit: int = 0
    # Replace shards that are there by none where no row is kept.
    allow_empty: bool = False
    # Try rows again whose failure may have healed.
    retry_failed: bool = False
    supervision: Supervision = field(default_factory=Supervision)
    # Refuse to write beside another process. False where the store can have no lock.
    lock: bool = True
    # Stop cleanly when less than this is free on a local disk, GB.
    min_free_gb: float = 0.5


def make_runner(options: RunOptions, dag: Dag, note: Callable[[str], None]) -> Runner:
    """The runner that the options name; `note` is told what it waits for."""
    if options.runner == "local":
        return LocalRunner(options.workers, here=not options.supervision.isolate)
    if options.runner == "ray":
        from gristmill.dags.engine.on_ray import RayRunner

        return RayRunner(options.address, options.workers, shipped_code(dag), note)
    raise ConfigurationError(f"runner {options.runner!r}; choose ray or local")


def execute(dag: Dag, out: str, options: RunOptions, progress: Progress) -> RunSummary:
    """Run `dag` into the folder `out` and return the summary that `summary.json` holds."""
    if options.runner == "ray":
        cluster_address(options.address)
    require_run_folder(out)
    layout = lay_out(dag, out, options.limit)
    check_source(layout)
    require_writable(out, what="run")
    return execute_layout(layout, options, progress)


def execute_layout(
    layout: RunLayout, options: RunOptions, progress: Progress, *, last_list: bool = False
) -> RunSummary:
    """Run a Dag whose fingerprints are known: neither its source nor a model is looked at where
    nothing is left to be done with it. `last_list`: take what lies there of all lists but the last
    as it is.

    Raises `NothingKeptError` where shards would be replaced by nothing; the folder then says what
    it said before.
    """
    dag, folder = layout.dag, layout.folder
    for warning in dag.warnings():
        progress.warn(warning)
    with run_lock(folder, lock=options.lock, tell=progress.note) as lock:
        before = folder.read_many(["dag.yaml"]).get("dag.yaml", b"")
        if folder.is_local:
            folder.remove("scratch")
        if not before and not folder.is_local and not folder.exists("nodes"):
            # What tells a run's folder from others; on a disk the lock does.
            folder.write_bytes("nodes/begun", b"")
        now = dump_dag(dag).encode()
        if now != before:
            folder.write_bytes("dag.yaml", now)
        lists = layout.lists[-1:] if last_list else layout.lists
        execution = _Execution(lists, options, progress, lock)
        try:
            return execution.run()
        except NothingKeptError:
            folder.write_bytes("dag.yaml", before)
            raise
        finally:
            # Another's, once the lock is lost.
            with contextlib.suppress(RunLockedError):
                lock.check()
                if folder.is_local:
                    folder.remove("scratch")


class _Execution:
    """One run of one Dag, with one list after the other."""

    def __init__(
        self, lists: Sequence[RunLayout], options: RunOptions, progress: Progress, lock: RunLock
    ) -> None:
        self.lists, self.options, self.progress, self.lock = lists, options, progress, lock
        # The run with the list that is at work.
        self.layout, self.dag = lists[-1], lists[-1].dag
        # Number of its first part, and of all parts up to its last; rows up to there, about.
        self.first = self.parts = 0
        self.rows = PARTS * self.dag.part_rows
        # Parts of each node that were there before.
        self.reused = dict.fromkeys(self.dag.nodes, first_part(lists[0]))
        self.resources = ResourceWatch(self.layout.folder, options.min_free_gb)
        self._runner: Runner | None = None
        self._stack = contextlib.ExitStack()

    def run(self) -> RunSummary:
        start = time.perf_counter()
        with self._stack:
            self._stack.enter_context(self.resources)
            self._check_weights()
            for layout in self.lists:
                self.layout = layout
                self._read_source()
                for step in schedule(self.dag):
                    if isinstance(step, Chain):
                        self._run_chain(step)
                    else:
                        self._run_barrier(step)
            return self._close(time.perf_counter() - start)

    def _close(self, seconds: float) -> RunSummary:
        counts: dict[str, NodeCount] | None = None
        problem: LedgerError | None = None
        self.lock.check()
        try:
            work = here if self.rows <= SMALL_ROWS else self._each
            counts = write_ledger(self.layout, self.parts, work)
        except LedgerError as error:
            problem = error
        # Nobody writes any more: what lies half-written was left by a kill.
        for name in self.layout.folder.unfinished("shards"):
            self.layout.folder.remove(name)
        summary = summarise(
            self.layout, self.parts, counts, self.reused, seconds, self.resources.peak_mb
        )
        write_sealed(self.layout.folder, "run.json", self._identity())
        write_sealed(self.layout.folder, "summary.json", dict(summary))
        if problem is not None:
            raise problem
        return summary

    def _identity(self) -> dict[str, object]:
        return {
            "dag": self.dag.name,
            "fingerprints": dict(self.layout.fingerprints),
            "limit": self.layout.limit,
            "parts": self.parts,
            # What relative paths in dag.yaml start from.
            "cwd": os.getcwd(),
            # The same as dag.yaml, should that be lost or changed.
            "dag_yaml": dump_dag(self.dag),
            # The same as additions.json.
            "additions": [one.stored() for one in self.layout.additions],
            # 2: every record is sealed, and `ledger.json` is there.
            "records": 2,
        }

    # -- steps ----------------------------------------------------------------------------------

    def _check_weights(self) -> None:
        """A model that cannot be had stops the run now, not after everything was downloaded."""
        nodes = unfinished_loaders(self.layout, again=self.options.retry_failed)
        if nodes:
            problems = self._running().everywhere(WeightsCheck(self.dag, nodes))
            for problem in filter(None, problems):
                raise MissingWeightsError(problem)

    def _read_source(self) -> None:
        node = self.dag.source
        stage = self.layout.reading
        self.first = first_part(self.layout)
        for note in self.dag.left_out if not self.layout.additions else ():
            self.progress.note(note)
        done, there = cut_done(self.layout), self._names(node).keys()
        if done and not there >= set(range(self.first, done[0])):
            done = None
        for note in ask_source(self.dag, stage.notes) if done is None else ():
            self.progress.note(note)
        self.reused[node] += done[0] - self.first if done else 0
        if done is None:
            chunks = len(ask_source(self.dag, stage.chunks))
            self.progress.start(node, chunks, None)
            scan: Sequence[Operator] = [ScanOperator(self.layout)]
            if self.layout.rows_to_take:
                # Few rows of a large source: as few chunks as it takes.
                chunks = self._scan_until(scan[0], chunks)
            else:
                for _ in self._tasks(range(chunks), scan):
                    self.progress.advance(node)
            self.lock.check()
            store = scans(self.layout)
            self.rows = first_row(self.layout)
            self.rows += sum(store.need(chunk).rows_out for chunk in range(chunks))
            self._apart(partial(cut_parts, self.layout, chunks))
            self.layout.store(node).settle()
            self.progress.finish(node)
            done = cut_done(self.layout)
        assert done is not None
        self.parts, self.rows = done

    def _scan_until(self, scan: Operator, chunks: int) -> int:
        rows = 0
        for chunk in range(chunks):
            scan(chunk)
            self.progress.advance(self.dag.source)
            rows += scans(self.layout).need(chunk).rows_out
            if rows >= self.layout.rows_to_take:
                return chunk + 1
        return chunks

    def _run_chain(self, chain: Chain) -> None:
        operators = [self._operator(group) for group in chain.groups]
        nodes = [node for group in chain.groups for node in group]
        before = {node: self._names(node) for node in nodes}
        every = list(range(self.first, self.parts))
        todo = every if self.options.retry_failed else parts_left(self.layout, nodes, every)
        if todo:
            for node in nodes:
                self.progress.start(node, len(every), self.rows - first_row(self.layout))
            watch = CommitWatch(self.layout, nodes, before, self.progress)
            with contextlib.ExitStack() as stack:
                if is_paced(self.dag, nodes):
                    stack.enter_context(self._running().pacing())
                tell = stack.enter_context(self._running().listening(self.progress.within))
                for operator in operators:
                    operator.tell = tell
                watch.reused(sorted(set(every) - set(todo)))
                for part in self._tasks(todo, operators):
                    watch.done(part)
                    self.resources.check()
                self.lock.check()
                watch.sweep()
            for node in nodes:
                self.progress.finish(node)
        for node in nodes:
            store = self.layout.store(node)
            store.gather()
            now = store.records()
            files = {n: now[n].files["rows"]["name"] for n in every}
            self.reused[node] += sum(before[node].get(n) == name for n, name in files.items())

    def _operator(self, group: Sequence[str]) -> PartOperator:
        options = self.options
        again = options.retry_failed
        if isinstance(self.dag.stage(group[0]), Map):
            return MapOperator(self.layout, group[0], options.supervision, retry_failed=again)
        return ScoreOperator(self.layout, group, options.supervision, retry_failed=again)

    def _run_barrier(self, barrier: Barrier) -> None:
        node = barrier.node
        stage = self.dag.stage(node)
        assert isinstance(stage, (Global, Write))
        state = barrier_state(self.layout, node, self.parts)
        fresh = is_finished(self.layout, node, state)
        parts = range(self.first, self.parts)
        if fresh and isinstance(stage, Global):
            fresh = self._names(node).keys() >= set(parts)
        self.reused[node] += len(parts) if fresh else 0
        if not fresh:
            self.lock.check()
            # A list that is added replaces nothing.
            replaces = isinstance(stage, Write) and not self.layout.additions
            if replaces and not self.options.allow_empty:
                refuse_nothing(self.layout, node, self.parts)
            make_room(self.layout, node, state)
            if isinstance(stage, Global):
                self._names(node)
            for phase in stage.phases():
                operator = PhaseOperator(self.layout, node, phase.name, self.parts)
                count = operator.count()
                if not count:
                    continue
                self.progress.start(f"{node}:{phase.name}", count, None)
                for _ in self._tasks(range(count), [operator]):
                    self.progress.advance(f"{node}:{phase.name}")
                    self.resources.check()
                self.progress.finish(f"{node}:{phase.name}")
            if isinstance(stage, Global):
                columns = ColumnsOperator(self.layout, node, self.parts)
                left = parts_left(self.layout, [node], parts)
                tasks = sorted({part // PARTS_A_TASK for part in left})
                for _ in self._tasks(tasks, [columns]):
                    self.resources.check()
                self.layout.store(node).settle()
            finish(self.layout, node, self.parts)
            if isinstance(stage, Write):
                for later in self.lists[len(self.layout.additions) + 1 :]:
                    reopen(later, node)
        if isinstance(stage, Keep) and self.layout is self.lists[-1]:
            for warning in rule_warnings(keep_outcomes(self.layout, node)):
                self.progress.warn(f"{node}: {warning}")

    # -- what steps share -----------------------------------------------------------------------

    def _tasks(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Run tasks; what is small and done at once is not worth a worker."""
        held = any(operator.holds_worker for operator in operators)
        once = len(tasks) == 1 or self.options.runner == "local"
        if once and not held and self.rows <= SMALL_ROWS:
            runner: Runner = LocalRunner(here=True)
        elif tasks:
            runner = self._running()
        else:
            return
        for task in runner.run(tasks, operators):
            self.lock.check()
            yield task

    def _each(self, tasks: Sequence[int], operator: Operator) -> Iterator[int]:
        """Tasks of an operator, done by workers."""
        return self._tasks(tasks, [operator])

    def _apart(self, work: Callable[[], _T]) -> _T:
        """What `work` over all rows returns; where these are many, a worker does it, so that a
        driver stays small."""
        return work() if self.rows <= SMALL_ROWS else self._running().apart(work)

    def _running(self) -> Runner:
        """The runner, started when first needed."""
        if self._runner is None:
            self._runner = self._stack.enter_context(
                make_runner(self.options, self.dag, self.progress.note)
            )
        return self._runner

    def _names(self, node: str) -> dict[int, str]:
        """Part -> name of its rows file, for the parts that are committed. One whose files are
        gone, or shorter, is not: its record is taken back, so that it is done again."""
        sound, unsound = self.layout.store(node).take_back_unsound()
        for part in unsound:
            self.progress.warn(
                f"{node}: part {part} is not committed: its record, or a file that it names, is "
                "missing, cut or changed; it is done again"
            )
        return {part: record.files["rows"]["name"] for part, record in sound.items()}
