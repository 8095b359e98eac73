"""The way of parts through a chain of operators: what is begun when, and what becomes of a part
that fails.

The same for all runners. Operators share what there is: each part that has gone through one may
enter the next as soon as there is room, and the last operators come first, so that the slowest has
all cores that the others leave it and little lies half done. A part that fails for a reason of its
own (a worker lost too often, storage that stays away) is tried once more when the others are under
way, and then stands back: the others are finished, and the list is raised at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from gristmill.errors import StageError, StorageError, WorkerError

# How often a part is tried.
ATTEMPTS = 2
# So many failures without a part that comes through: it is not the parts.
_IN_A_ROW = 16
# How many failed parts a message names.
_NAMED = 5

Handle = TypeVar("Handle", bound=Hashable)


class Pool(Protocol[Handle]):
    """Where operators do their tasks."""

    def has_room(self, index: int, under_way: Sequence[int]) -> bool:
        """Whether operator `index` may begin a task, when so many of each are under way."""

    def submit(self, index: int, task: int, *, again: bool) -> Handle:
        """Begin a task of operator `index`; `again`: after it failed, elsewhere if possible."""

    def wait(self, under_way: Sequence[Handle]) -> Sequence[tuple[Handle, BaseException | None]]:
        """Wait until some have ended, or for a moment; those, with what they raised."""

    def stop(self, under_way: Sequence[Handle]) -> None:
        """End what is still under way, and let go of what is held."""


def flow(tasks: Sequence[int], operators: int, pool: Pool[Handle]) -> Iterator[int]:
    """Yield each task when all operators have done it, in the order of completion.

    What concerns a part alone is raised when all others are done, see `parts_failed`; all else at
    once.
    """
    waiting: list[deque[int]] = [deque(tasks), *(deque[int]() for _ in range(operators - 1))]
    counts = [0] * operators
    under_way: dict[Handle, tuple[int, int]] = {}
    tries: dict[tuple[int, int], int] = {}
    failed: dict[int, WorkerError | StorageError] = {}
    in_a_row = 0
    try:
        while under_way or any(waiting):
            for index in reversed(range(operators)):
                while waiting[index] and pool.has_room(index, counts):
                    task = waiting[index].popleft()
                    handle = pool.submit(index, task, again=(index, task) in tries)
                    under_way[handle] = index, task
                    counts[index] += 1
                if waiting[index]:
                    # Small tasks of the operators before would take all that is let go of.
                    break
            for handle, error in pool.wait(list(under_way)):
                index, task = under_way.pop(handle)
                counts[index] -= 1
                if error is None:
                    in_a_row = 0
                    if index + 1 < operators:
                        waiting[index + 1].append(task)
                    else:
                        yield task
                    continue
                if not isinstance(error, (WorkerError, StorageError)) or isinstance(
                    error, StageError
                ):
                    raise error
                in_a_row += 1
                tries[index, task] = tries.get((index, task), 0) + 1
                if tries[index, task] < ATTEMPTS:
                    waiting[index].append(task)
                else:
                    failed[task] = error
                if in_a_row >= _IN_A_ROW:
                    raise error
    finally:
        pool.stop(list(under_way))
    if failed:
        raise parts_failed(failed, len(tasks))


def parts_failed(
    failed: Mapping[int, WorkerError | StorageError], tasks: int
) -> WorkerError | StorageError:
    """One error about all parts that failed; of their kind, if it is one."""
    if tasks == 1:
        return next(iter(failed.values()))
    kinds = {type(error) for error in failed.values()}
    named = "; ".join(f"part {part}: {failed[part]}" for part in sorted(failed)[:_NAMED])
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    kind = kinds.pop() if len(kinds) == 1 else WorkerError
    return kind(
        f"{len(failed)} of {tasks} parts failed {ATTEMPTS} times ({named}{more}); all others are "
        "done and stay, the same command tries these again"
    )
