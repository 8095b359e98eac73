"""The in-process runner: parts one after another, in this process. For laptops and debuggers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gristmill.dags.engine.rows_done import RowsDone
from gristmill.pipelines.stage import Needs


class Operator(Protocol):
    """Does a numbered piece of work and commits it."""

    # Whether a worker is worth keeping for the next task (models, children), or any will do.
    holds_worker: bool

    def needs(self) -> Needs:
        """What one worker occupies."""

    def __call__(self, task: int, /) -> bool:
        """Do it; True if it was done before."""

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

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says on each machine that workers may run on."""


class LocalRunner:
    """Everything in this process, in order; stages still run in supervised children."""

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Yield each task when all operators have done it."""
        try:
            for task in tasks:
                for operator in operators:
                    operator(task)
                yield task
        finally:
            for operator in operators:
                operator.close()

    def listening(self, hears: RowsDone) -> AbstractContextManager[RowsDone]:
        """Operators are here: nothing lies between."""
        return contextlib.nullcontext(hears)

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says here."""
        return [look()]
