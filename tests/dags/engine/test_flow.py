"""Parts on their way: who shares what, who comes first, and what becomes of a part that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from gristmill.dags.engine.flow import flow
from gristmill.errors import ConfigurationError, StageError, StorageError, WorkerError

Fails = Callable[[int, int, int], BaseException | None]


class Steps:
    """A pool of `cores`; operators need `needs` of them. Tasks end in the order of their begin, one
    a wait. `fails(index, task, attempt)` says what is raised."""

    def __init__(self, needs: Sequence[float], cores: float, fails: Fails | None = None) -> None:
        self.needs, self.cores, self.fails = needs, cores, fails
        self.begun: list[tuple[int, int]] = []
        self.again: list[tuple[int, int]] = []
        self.most = [0.0] * len(needs)
        self.stopped: list[int] | None = None

    def has_room(self, index: int, under_way: Sequence[int]) -> bool:
        taken = sum(n * c for n, c in zip(self.needs, under_way, strict=True))
        for each, count in enumerate(under_way):
            self.most[each] = max(self.most[each], self.needs[each] * count)
        return taken + self.needs[index] <= self.cores

    def submit(self, index: int, task: int, *, again: bool) -> int:
        self.begun.append((index, task))
        if again:
            self.again.append((index, task))
        return len(self.begun) - 1

    def wait(self, under_way: Sequence[int]) -> Sequence[tuple[int, BaseException | None]]:
        first = min(under_way)
        index, task = self.begun[first]
        attempt = self.begun[: first + 1].count((index, task))
        return [(first, self.fails(index, task, attempt) if self.fails else None)]

    def stop(self, under_way: Sequence[int]) -> None:
        self.stopped = list(under_way)


def test_every_part_goes_through_all_operators_and_the_last_ones_come_first() -> None:
    pool = Steps([1.0, 1.0, 1.0], cores=1.0)
    assert list(flow([7, 3], 3, pool)) == [7, 3]
    assert pool.begun == [(0, 7), (1, 7), (2, 7), (0, 3), (1, 3), (2, 3)]
    assert pool.stopped == []


def test_the_slowest_operator_has_all_cores_that_the_others_leave() -> None:
    pool = Steps([0.25, 1.0], cores=4.0)
    assert sorted(flow(range(40), 2, pool)) == list(range(40))
    assert pool.most[1] >= 3.0, "not a half, however many operators there are"


def test_small_tasks_do_not_keep_a_large_one_from_its_turn() -> None:
    pool = Steps([0.25, 1.0], cores=1.0)
    assert len(list(flow(range(12), 2, pool))) == 12
    begun = [index for index, _ in pool.begun]
    assert begun.index(1) < 6, "downloads that come up take all that those before them let go of"


def test_a_part_that_fails_is_tried_again_and_the_others_are_done() -> None:
    def fails(index: int, task: int, attempt: int) -> BaseException | None:
        if index == 1 and task == 2:
            return StorageError("away")
        return WorkerError("lost") if index == 0 and task == 5 and attempt == 1 else None

    pool = Steps([1.0, 1.0], cores=2.0, fails=fails)
    done = []
    with pytest.raises(StorageError, match=r"1 of 8 parts failed 2 times \(part 2: away\)"):
        for task in flow(range(8), 2, pool):
            done.append(task)
    assert sorted(done) == [0, 1, 3, 4, 5, 6, 7]
    assert pool.again == [(0, 5), (1, 2)] or pool.again == [(1, 2), (0, 5)]


def test_a_single_part_says_what_it_says() -> None:
    pool = Steps([1.0], cores=1.0, fails=lambda *_: StorageError("away"))
    with pytest.raises(StorageError, match=r"^away$"):
        list(flow([4], 1, pool))


@pytest.mark.parametrize(
    "error", [StageError("broken"), ConfigurationError("no"), ValueError("raw")]
)
def test_what_concerns_all_parts_stops_at_once(error: Exception) -> None:
    pool = Steps([1.0], cores=2.0, fails=lambda *_: error)
    with pytest.raises(type(error)):
        list(flow(range(100), 1, pool))
    assert len(pool.begun) < 4 and pool.stopped, "and what is under way is ended"


def test_failures_in_a_row_are_not_the_parts_fault() -> None:
    pool = Steps([1.0], cores=1.0, fails=lambda *_: StorageError("away"))
    with pytest.raises(StorageError, match=r"^away$"):
        list(flow(range(1000), 1, pool))
    assert len(pool.begun) < 20


def test_many_failed_parts_are_named_by_the_first() -> None:
    def fails(index: int, task: int, attempt: int) -> BaseException | None:
        return WorkerError(f"no {task}") if task % 3 == 0 else None

    with pytest.raises(WorkerError, match=r"10 of 30 parts failed.*part 12: no 12; and 5 more"):
        list(flow(range(30), 1, Steps([1.0], cores=1.0, fails=fails)))


def test_who_stops_listening_ends_what_is_under_way() -> None:
    pool = Steps([1.0], cores=3.0)
    parts = flow(range(9), 1, pool)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert len(pool.stopped or ()) == 2
