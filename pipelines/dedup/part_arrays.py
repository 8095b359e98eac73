"""Arrays that a Global stage saves a task at a time, and how they are read as one.

A phase that runs once a part leaves one array of each fact and part, `signatures/000012.area`; the
phases after it join some of them, and look into others row by row, because all of them would not
fit in memory. Arrays come back memory-mapped where the run lies on a local disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.stage import Workspace

Kind = TypeVar("Kind", bound=np.generic)

# Arrays of nothing, by what the rows of the full ones are: 128-bit digests, pairs, whole numbers.
NO_DIGESTS: NDArray[np.uint64] = np.zeros((0, 2), np.uint64)
NO_PAIRS: NDArray[np.int64] = np.zeros((0, 2), np.int64)
NO_NUMBERS: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True)
class PartArrays:
    """The arrays `<group>/<task>.<name>` of a stage, or `<group>/<task>` without a name."""

    workspace: Workspace
    group: str
    # How many tasks have saved theirs; None: one a part.
    tasks: int | None = None

    def save(self, task: int, **arrays: NDArray[np.generic]) -> None:
        """Store the arrays of one task by name, each whole or not at all."""
        for name, array in arrays.items():
            self.workspace.save(self._place(task, name), array)

    def load(self, task: int, name: str, kind: type[Kind]) -> NDArray[Kind]:
        """One task's array, of the dtype `kind` that it was saved with."""
        return np.asarray(self.workspace.load(self._place(task, name)))

    def each(self, name: str, kind: type[Kind]) -> list[NDArray[Kind]]:
        """That array of every task, in order."""
        tasks = self.workspace.parts if self.tasks is None else self.tasks
        return [self.load(task, name, kind) for task in range(tasks)]

    def joined(self, name: str, nothing: NDArray[Kind]) -> NDArray[Kind]:
        """That array of all tasks, end to end; `nothing` has its dtype, its width and no rows."""
        return np.concatenate([nothing, *self.each(name, nothing.dtype.type)])

    def starts(self, name: str) -> NDArray[np.int64]:
        """[tasks + 1]: the number, over all tasks, of each task's first row in that array, and how
        many rows there are."""
        tasks = self.workspace.parts if self.tasks is None else self.tasks
        counts = [len(self.workspace.load(self._place(task, name))) for task in range(tasks)]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _place(self, task: int, name: str) -> str:
        return f"{self.group}/{task:06d}.{name}" if name else f"{self.group}/{task:06d}"


class PartRows(Generic[Kind]):
    """Rows of one array of all parts by their number over all parts; only what is asked for is
    read.

    `starts` [parts + 1] are the numbers of the parts' first rows, `arrays` one [rows, ...] a part.
    """

    def __init__(self, starts: NDArray[np.int64], arrays: Sequence[NDArray[Kind]]) -> None:
        self._starts, self._arrays = starts, arrays

    def take(self, rows: NDArray[np.int64]) -> NDArray[Kind]:
        """[len(rows), ...], in the order asked for."""
        first = self._arrays[0]
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(parts):
            here = np.flatnonzero(parts == part)
            found[here] = self._arrays[part][rows[here] - self._starts[part]]
        return found

    def one(self, row: int) -> NDArray[Kind]:
        """The row of that number, [...]."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return np.asarray(self._arrays[part][row - int(self._starts[part])])
