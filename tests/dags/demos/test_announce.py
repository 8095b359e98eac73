"""What a demo says while it works: every step, how long it takes, and the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gristmill.dags.demos import announce
from gristmill.dags.demos.announce import Steps, counting, duration


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(announce, "time", made)
    return made


def test_steps_tell_the_time_left_at_the_pace_of_this_machine(clock: Clock) -> None:
    heard = io.StringIO()
    steps = Steps(Console(file=heard, width=200), (10.0, 20.0, 30.0))
    steps.begin("drawing")
    clock.now += 20
    steps.begin("curating")
    # Done before: it says nothing of the machine.
    steps.found("there")
    clock.now += 1
    steps.begin("training")
    assert heard.getvalue().splitlines() == [
        "[1/3] drawing (about 10 s; 1 min 00 s to the report)",
        "[2/3] curating (about 40 s; 1 min 40 s to the report)",
        "  there",
        "[3/3] training (about 1 min 00 s; 1 min 00 s to the report)",
    ]


def test_counting_speaks_every_few_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = counting("pages", 1000)
    # The first comes late, as workers start; the estimate does not count that.
    clock.now += 60
    for done in (1, 101, 501, 1000):
        tell(done)
        clock.now += 3
    assert capsys.readouterr().err == "  501 of 1,000 pages, 6 s left\n"


def test_durations_are_for_people() -> None:
    assert [duration(x) for x in (0.2, 59, 75, 600)] == ["1 s", "59 s", "1 min 15 s", "10 min"]
