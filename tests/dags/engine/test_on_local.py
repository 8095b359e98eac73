"""The runner in this process: tasks in order, each through all operators, which are closed."""

from __future__ import annotations

import functools
import os
import threading
import time
from pathlib import Path

import pytest
from toy_operators import Marking, fail_with

from gristmill.dags.engine.on_local import LocalRunner
from gristmill.errors import SourceError
from gristmill.pipelines.child import Child
from gristmill.pipelines.stage import Needs


class Noting:
    """Writes down what it is asked to do."""

    holds_worker = False
    shares = False

    def __init__(self, name: str, notes: list[str], fails_at: int = -1) -> None:
        self.name, self.notes, self.fails_at = name, notes, fails_at

    def needs(self) -> Needs:
        return Needs()

    def __call__(self, task: int, /) -> bool:
        if task == self.fails_at:
            raise ValueError("broken")
        self.notes.append(f"{self.name}{task}")
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        self.notes.append(f"{self.name} closed")


def test_each_task_goes_through_all_operators_in_order() -> None:
    notes: list[str] = []
    with LocalRunner(here=True) as runner:
        done = runner.run([2, 0], [Noting("a", notes), Noting("b", notes)])
        assert next(done) == 2 and notes == ["a2", "b2"]
        assert list(done) == [0]
    assert notes == ["a2", "b2", "a0", "b0", "a closed", "b closed"]


def test_operators_are_closed_when_one_fails_or_nobody_goes_on() -> None:
    notes: list[str] = []
    with pytest.raises(ValueError, match="broken"):
        list(
            LocalRunner(here=True).run([0, 1], [Noting("a", notes), Noting("b", notes, fails_at=1)])
        )
    assert notes == ["a0", "b0", "a1", "a closed", "b closed"]
    notes.clear()
    left = LocalRunner(here=True).run([0, 1], [Noting("a", notes)])
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert notes == ["a0", "a closed"]


def test_tasks_that_hold_no_worker_are_done_by_children_side_by_side(tmp_path: Path) -> None:
    with LocalRunner(workers=2) as runner:
        operator = Marking(tmp_path, holds_worker=False)
        assert sorted(runner.run([4, 1, 7], [operator])) == [1, 4, 7]
    marks = [mark.name.split("-") for mark in tmp_path.iterdir()]
    assert sorted(task for task, _ in marks) == ["1", "4", "7"]
    assert str(os.getpid()) not in {pid for _, pid in marks}


def test_a_step_over_all_parts_is_done_by_another_process_and_here_for_a_debugger() -> None:
    assert LocalRunner().apart(os.getpid) != os.getpid()
    assert LocalRunner(here=True).apart(os.getpid) == os.getpid()
    with pytest.raises(SourceError, match=r"^gone$"):
        LocalRunner().apart(functools.partial(fail_with, SourceError("gone")))


class Waiting:
    """Waits for ever in a child."""

    holds_worker = True
    shares = False

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.child = Child(functools.partial(Sleeper))

    def __copy__(self) -> Waiting:
        return self

    def needs(self) -> Needs:
        return Needs(cpus=0.5)

    def __call__(self, task: int, /) -> bool:
        if task:
            self.child.start()
            self.begun.set()
            self.child.call("sleep", deadline_s=600)
        else:
            self.begun.wait(60)
        return False

    def stop(self) -> None:
        self.child.stop()

    def close(self) -> None:
        self.child.close()


class Sleeper:
    def sleep(self) -> None:
        time.sleep(600)


def test_who_stops_listening_does_not_wait_for_what_is_under_way() -> None:
    operator = Waiting()
    parts = LocalRunner(workers=2).run([0, 1], [operator])
    assert next(parts) == 0
    began = time.monotonic()
    assert operator.shares, "what starts a process a core starts one"
    parts.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 300, "half of what it would sleep"
    assert operator.child.pid is None
