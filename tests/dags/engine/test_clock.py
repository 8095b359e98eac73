"""Seconds as a person says them."""

from __future__ import annotations

from gristmill.dags.engine.clock import clock


def test_seconds_minutes_and_hours() -> None:
    said = [clock(seconds) for seconds in (0.04, 59.94, 60, 3599.4, 7500)]
    assert said == ["0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "2 h 5 min"]
