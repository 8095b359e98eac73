"""The runner in this process: tasks in order, each through all operators, which are closed."""

from __future__ import annotations

import pytest

from gristmill.dags.engine.on_local import LocalRunner
from gristmill.pipelines.stage import Needs


class Noting:
    """Writes down what it is asked to do."""

    holds_worker = False

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
    with LocalRunner() as runner:
        done = runner.run([2, 0], [Noting("a", notes), Noting("b", notes)])
        assert next(done) == 2 and notes == ["a2", "b2"]
        assert list(done) == [0]
    assert notes == ["a2", "b2", "a0", "b0", "a closed", "b closed"]


def test_operators_are_closed_when_one_fails_or_nobody_goes_on() -> None:
    notes: list[str] = []
    with pytest.raises(ValueError, match="broken"):
        list(LocalRunner().run([0, 1], [Noting("a", notes), Noting("b", notes, fails_at=1)]))
    assert notes == ["a0", "b0", "a1", "a closed", "b closed"]
    notes.clear()
    left = LocalRunner().run([0, 1], [Noting("a", notes)])
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert notes == ["a0", "a closed"]
