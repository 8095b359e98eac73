"""Arrays that a Global stage saves a task at a time, and how they are read as one.

A phase that runs once a part leaves one file of arrays a part, `signatures/000012`; one that does
little a part does `PARTS_A_TASK` of them in a task, and leaves one file of those. The phases after
it join some of them, and look into others row by row, because all of them would not fit in memory.
Arrays come back memory-mapped where the run lies on a local disk. Of parts that were judged before
a list was added they stay where they are: see `of_new_parts`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.stage import Workspace

Kind = TypeVar("Kind", bound=np.generic)

# Arrays of nothing, by what the rows of the full ones are: 128-bit digests, pairs, whole numbers.
NO_DIGESTS: NDArray[np.uint64] = np.zeros((0, 2), np.uint64)
NO_PAIRS: NDArray[np.int64] = np.zeros((0, 2), np.int64)
NO_NUMBERS: NDArray[np.int64] = np.zeros(0, np.int64)


# Parts that a task does together where a part is little work: a store is asked by the task.
PARTS_A_TASK = 8


def count_together(workspace: Workspace) -> int:
    """How many tasks of `PARTS_A_TASK` parts there are."""
    return math.ceil(workspace.parts / PARTS_A_TASK)


def parts_together(workspace: Workspace, task: int) -> range:
    """The parts of such a task."""
    return range(task * PARTS_A_TASK, min((task + 1) * PARTS_A_TASK, workspace.parts))


def of_new_parts(
    work: Callable[[Workspace, int], None], together: int = 1
) -> Callable[[Workspace, int], None]:
    """`work` on a task of `together` parts that are looked at by themselves: what it found when
    all of them were new stands, and `PartArrays` finds it there."""

    def do(workspace: Workspace, task: int) -> None:
        if _before(workspace, task, together) is None:
            work(workspace, task)

    return do


def _before(workspace: Workspace, task: int, together: int) -> Workspace | None:
    """Where the arrays of a task lie whose parts were all judged before; None if some were not."""
    return workspace.before if (task + 1) * together <= workspace.first_part else None


@dataclass(frozen=True)
class PartArrays:
    """The arrays that each task of a phase saved under `<group>/<task>`."""

    workspace: Workspace
    group: str
    # How many tasks have saved theirs; None: one a part.
    tasks: int | None = None
    # How many of them lie in one file.
    together: int = 1
    # Whether those of parts that were judged before are saved again as well, of one a part.
    anew: bool = False

    def save(self, task: int, **arrays: NDArray[np.generic]) -> None:
        """Store the arrays of one task, all of them or none."""
        self.workspace.save_arrays(self._place(task), arrays)

    def save_together(self, task: int, parts: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Store the arrays of the parts of one task, in their order."""
        self.workspace.save_parts(self._place(task), parts)

    def all(self, task: int) -> Mapping[str, NDArray[Any]]:
        """The arrays of one task by name; of one part, where tasks have several."""
        home = self._home(task // self.together)
        if self.together == 1:
            return home.load_arrays(self._place(task))
        return home.load_part(self._place(task // self.together), task % self.together)

    def every(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """`all` of each, in order."""
        if self.together == 1:
            yield from map(self.all, range(self._count()))
            return
        for file in range(math.ceil(self._count() / self.together)):
            yield from self._home(file).load_parts(self._place(file))

    def load(self, task: int, name: str, kind: type[Kind]) -> NDArray[Kind]:
        """One task's array, of the dtype `kind` that it was saved with."""
        return np.asarray(self.all(task)[name])

    def each(self, name: str, kind: type[Kind]) -> Iterator[NDArray[Kind]]:
        """That array of every task, in order."""
        return (np.asarray(saved[name]) for saved in self.every())

    def join(self, **nothing: NDArray[Any]) -> Joined:
        """Several arrays of all tasks, each end to end, read a task at a time; each is given an
        array of its dtype and width without rows."""
        found: dict[str, list[NDArray[Any]]] = {name: [none] for name, none in nothing.items()}
        for saved in self.every():
            for name, pieces in found.items():
                # A copy, where a view would keep the whole file in memory.
                pieces.append(np.array(saved[name]))
        starts = {
            name: np.cumsum([len(piece) for piece in pieces]) for name, pieces in found.items()
        }
        arrays = {}
        for name, none in nothing.items():
            # One of nothing may be as wide as it likes.
            full = [piece for piece in found.pop(name) if len(piece)]
            arrays[name] = np.concatenate(full or [none])
        return Joined(arrays, starts)

    def rows(self, starts: NDArray[np.int64], name: str, kind: type[Kind]) -> PartRows[Kind]:
        """Rows of that array by their number over all tasks."""
        return PartRows(starts, lambda task: self.load(task, name, kind))

    def _home(self, file: int) -> Workspace:
        """Where a file of arrays lies."""
        home = self.workspace
        if self.tasks is None and not self.anew:
            while (before := _before(home, file, self.together)) is not None:
                home = before
        return home

    def _count(self) -> int:
        return self.workspace.parts if self.tasks is None else self.tasks

    def _place(self, task: int) -> str:
        return f"{self.group}/{task:06d}"


@dataclass(frozen=True)
class Joined:
    """Arrays of all tasks, end to end: by name, and where in each a task begins."""

    arrays: dict[str, NDArray[Any]]
    # [tasks + 1]: the number of each task's first row in the array, and how many rows there are.
    starts: dict[str, NDArray[np.int64]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def numbered(self, rows: str, things: str) -> NDArray[np.int64]:
        """Which thing each row is of, such as its image, numbered over all tasks; -1 for none.

        `rows` is the array that tells it by numbers of the row's own task, `things` one with an
        item a thing.
        """
        within = self.arrays[rows]
        first = np.repeat(self.starts[things][:-1], np.diff(self.starts[rows]))
        return np.where(within < 0, -1, within + first)


class PartRows(Generic[Kind]):
    """Rows of one array of all parts by their number over all parts; only parts that are asked for
    are read.

    `starts` [parts + 1] are the numbers of the parts' first rows, `load` gives [rows, ...] of a
    part.
    """

    def __init__(self, starts: NDArray[np.int64], load: Callable[[int], NDArray[Kind]]) -> None:
        self._starts, self._load = starts, load
        self._arrays: dict[int, NDArray[Kind]] = {}

    def take(self, rows: NDArray[np.int64]) -> NDArray[Kind]:
        """[len(rows), ...], in the order asked for."""
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        first = self._array(int(parts[0]) if len(parts) else 0)
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for part in np.unique(parts).tolist():
            here = np.flatnonzero(parts == part)
            found[here] = self._array(part)[rows[here] - self._starts[part]]
        return found

    def one(self, row: int) -> NDArray[Kind]:
        """The row of that number, [...]."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return np.asarray(self._array(part)[row - int(self._starts[part])])

    def _array(self, part: int) -> NDArray[Kind]:
        if part not in self._arrays:
            self._arrays[part] = self._load(part)
        return self._arrays[part]


def rows_of_parts(
    starts: NDArray[np.int64], rows: NDArray[np.int64], **facts: NDArray[Any]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Facts of things, such as images, for the rows of each part, as `save_parts` takes them.

    `rows` says which thing each row of all parts is of, `starts` [parts + 1] where in it a part
    begins; each fact is an array with an item a thing.
    """
    for start, end in itertools.pairwise(starts.tolist()):
        yield {name: values[rows[start:end]] for name, values in facts.items()}
