"""The runner of one machine: as many parts at once as there are cores, or one after another in this
process for a debugger.

The work on rows is done in child processes, one an operator and part under way; here, threads wait
for them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, cast

import psutil

from gristmill.dags.engine.flow import flow
from gristmill.dags.engine.pace_keeper import keeping
from gristmill.dags.engine.rows_done import RowsDone
from gristmill.pipelines.child import Child
from gristmill.pipelines.stage import Needs

_T = TypeVar("_T")

# Share of the memory that is free at the start that workers may take.
_MEMORY_SHARE = 0.8
# Whatever a step over all parts takes; a child that dies is seen at once.
_NO_DEADLINE_S = 1e7
# Seconds that what was under way is given to end by itself, once it was told to.
_STOP_S = 10.0


class Operator(Protocol):
    """Does a numbered piece of work and commits it."""

    # Whether a worker is worth keeping for the next task (models, children), or any will do.
    holds_worker: bool
    # Whether others work beside it on the same cores.
    shares: bool

    def needs(self) -> Needs:
        """What one worker occupies."""

    def __call__(self, task: int, /) -> bool:
        """Do it; True if it was done before."""

    def stop(self) -> None:
        """Have a call that another thread is in end soon, by an exception."""

    def close(self) -> None:
        """Let go of what is held."""


class Runner(Protocol):
    """Runs tasks through a chain of operators, in any order."""

    def __enter__(self) -> Runner:
        """Get ready."""

    def __exit__(self, *error: object) -> None:
        """Let go of what is held."""

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Yield each task when all operators have done it, in the order of completion."""

    def listening(self, hears: RowsDone) -> AbstractContextManager[RowsDone]:
        """Within the block, what operators tell to what it gives reaches `hears`."""

    def pacing(self) -> AbstractContextManager[object]:
        """Within the block, workers ask hosts at one pace, all of them together."""

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says on each machine that workers may run on."""

    def apart(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, done by another process, whose memory is nobody's afterwards."""


class LocalRunner:
    """Workers of this machine: one a core, or as many as `workers` says for each operator; with
    `here`, all in this thread, in order."""

    def __init__(self, workers: int | None = None, *, here: bool = False) -> None:
        self.workers, self.here = workers, here

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Yield each task when all operators have done it."""
        if self.here:
            return flow(tasks, len(operators), _Here(operators))
        inner = [each if each.holds_worker else _InChild(each) for each in operators]
        if len(tasks) == 1 or self.workers == 1:
            return flow(tasks, len(operators), _Here(inner))
        return flow(tasks, len(operators), _Threads(inner, self.workers))

    def listening(self, hears: RowsDone) -> AbstractContextManager[RowsDone]:
        """Operators are here: nothing lies between."""
        return contextlib.nullcontext(hears)

    def pacing(self) -> AbstractContextManager[object]:
        """Counted in this process, which children of workers ask."""
        return contextlib.nullcontext() if self.here else keeping()

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says here."""
        return [look()]

    def apart(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, done by a child; here for a debugger."""
        if self.here:
            return work()
        child = Child(functools.partial(_Once, work))
        try:
            return cast(_T, child.call("do", deadline_s=_NO_DEADLINE_S))
        finally:
            child.close()


class _Once:
    """Work that a child is made for."""

    def __init__(self, work: Callable[..., object]) -> None:
        self.do = work


class _InChild:
    """An operator whose tasks are done by a child, as those of a stage on rows are anyway."""

    holds_worker = True
    shares = False

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._child: Child | None = None

    def needs(self) -> Needs:
        return self._operator.needs()

    def __call__(self, task: int, /) -> bool:
        if self._child is None:
            self._child = Child(functools.partial(_Once, self._operator))
        return bool(self._child.call("do", task, deadline_s=_NO_DEADLINE_S))

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_child": None}


class _Here:
    """One thing after another."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        self._operators = operators
        self._numbers = itertools.count()
        self._ended: dict[int, BaseException | None] = {}

    def has_room(self, index: int, under_way: Sequence[int]) -> bool:
        return not any(under_way)

    def submit(self, index: int, task: int, *, again: bool) -> int:
        number = next(self._numbers)
        try:
            self._operators[index](task)
            self._ended[number] = None
        except Exception as error:
            self._ended[number] = error
        return number

    def wait(self, under_way: Sequence[int]) -> Sequence[tuple[int, BaseException | None]]:
        ended, self._ended = self._ended, {}
        return list(ended.items())

    def stop(self, under_way: Sequence[int]) -> None:
        for operator in self._operators:
            operator.close()


class _Threads:
    """A thread for each task under way; an operator has as many workers as it ever needed at once,
    and what they occupy fits the machine."""

    def __init__(self, operators: Sequence[Operator], workers: int | None) -> None:
        self._operators, self._workers = operators, workers
        self._needs = [operator.needs() for operator in operators]
        self._cores = float(len(os.sched_getaffinity(0)))
        self._memory_gb = psutil.virtual_memory().available / 2**30 * _MEMORY_SHARE
        # Workers of each operator: those that wait, and all.
        self._free: list[list[Operator]] = [[] for _ in operators]
        self._all: list[Operator] = []
        self._numbers = itertools.count()
        self._threads: dict[int, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()

    def has_room(self, index: int, under_way: Sequence[int]) -> bool:
        if not any(under_way):
            return True
        if self._workers is not None and under_way[index] >= self._workers:
            return False
        pairs = [*zip(self._needs, under_way, strict=True), (self._needs[index], 1)]
        cores = sum(need.cpus * count for need, count in pairs)
        memory = sum(need.memory_gb * count for need, count in pairs)
        return cores <= self._cores and memory <= self._memory_gb

    def submit(self, index: int, task: int, *, again: bool) -> int:
        number = next(self._numbers)
        if not self._free[index]:
            # A worker of its own: operators drop what they hold when they are copied.
            worker = copy.copy(self._operators[index])
            worker.shares = True
            self._free[index].append(worker)
            self._all.append(worker)
        operator = self._free[index].pop()
        thread = threading.Thread(
            target=self._do, args=(number, index, operator, task), daemon=True
        )
        self._threads[number] = thread
        thread.start()
        return number

    def _do(self, number: int, index: int, operator: Operator, task: int) -> None:
        error: BaseException | None = None
        try:
            operator(task)
        except BaseException as raised:
            error = raised
        self._free[index].append(operator)
        self._ended.put((number, error))

    def wait(self, under_way: Sequence[int]) -> Sequence[tuple[int, BaseException | None]]:
        number, error = self._ended.get()
        self._threads.pop(number).join()
        return [(number, error)]

    def stop(self, under_way: Sequence[int]) -> None:
        for operator in self._all:
            operator.stop()
        for thread in self._threads.values():
            thread.join(_STOP_S)
        for operator in self._all:
            operator.close()
