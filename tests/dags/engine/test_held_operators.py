"""A worker keeps an operator for the next part, and closes it when it has failed or none comes."""

from __future__ import annotations

import pickle
import threading

import pytest

from gristmill.dags.engine import held_operators
from gristmill.dags.engine.held_operators import Parcel, held_operator
from gristmill.pipelines.stage import Needs

closed: list[int] = []
all_closed = threading.Event()


class Kept:
    """Notes when it is closed."""

    shares = False

    def __init__(self, number: int, *, holds_worker: bool = True) -> None:
        self.number, self.holds_worker = number, holds_worker

    def needs(self) -> Needs:
        return Needs()

    def __call__(self, task: int, /) -> bool:
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        closed.append(self.number)
        all_closed.set()


@pytest.fixture(autouse=True)
def _nothing_closed() -> None:
    closed.clear()
    all_closed.clear()


def parcel(number: int, *, holds_worker: bool = True) -> Parcel:
    return Parcel.of(None, pickle.dumps(Kept(number, holds_worker=holds_worker)))


def test_the_next_part_finds_the_operator_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with held_operator(parcel(1)) as first:
        pass
    with held_operator(parcel(2)) as other, held_operator(parcel(1)) as again:
        assert again is first is not other
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with held_operator(parcel(1)) as elsewhere:
        assert elsewhere is not first, "its child stays on the device it began with"
    assert closed == []


def test_one_that_failed_or_that_holds_nothing_is_closed() -> None:
    with pytest.raises(ValueError, match="broken"), held_operator(parcel(3)):
        raise ValueError("broken")
    with held_operator(parcel(4, holds_worker=False)):
        pass
    assert closed == [3, 4]


def test_one_that_nobody_needs_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_operators, "IDLE_S", 0.01)
    monkeypatch.setattr(held_operators, "_held", held_operators._Held())
    with held_operator(parcel(5)):
        pass
    assert all_closed.wait(20) and closed == [5]
    with held_operator(parcel(5)):
        pass
    assert not closed[1:] or closed == [5, 5]
