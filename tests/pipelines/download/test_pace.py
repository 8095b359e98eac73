"""Turns at hosts, by a clock of the test's own."""

from __future__ import annotations

import itertools

import pytest
import yarl

from gristmill.pipelines.download import pace
from gristmill.pipelines.download.pace import LocalPace, PaceLost, SocketPace, host_key


class Clock:
    """Stands still until it is told to go."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_host_s_turns_are_an_interval_apart_whoever_asks_and_however_late() -> None:
    clock, taken = Clock(), []
    kept = LocalPace(clock)
    for step in range(400):
        # Steps of powers of two are exact; now and then nobody asks for a while.
        clock.now += 0.0625 if step % 50 else 4.0
        for _ in range(3):
            wait = kept.take("slow.test", 1.0)
            taken += [clock.now] if not wait else []
            assert 0 <= wait <= 1
        assert kept.take("other.test", 0.0) == 0
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    assert len(taken) >= 20 and min(gaps) == 1.0


def test_a_pause_is_everybody_s_and_the_longest_counts() -> None:
    clock = Clock()
    kept = LocalPace(clock)
    kept.pause("busy.test", 10)
    kept.pause("busy.test", 3)
    assert kept.is_paused("busy.test") and not kept.is_paused("free.test")
    assert kept.take("busy.test", 0.0) == 10 and kept.take("busy.test", 1.0) == 10
    assert kept.take("free.test", 0.0) == 0
    clock.now += 10
    assert not kept.is_paused("busy.test")
    assert kept.take("busy.test", 1.0) == 0 and kept.take("busy.test", 1.0) == 1


def test_one_that_takes_the_place_of_another_lets_each_host_wait_once() -> None:
    clock = Clock()
    kept = LocalPace(clock, held=True)
    assert kept.take("a.test", 2.0) == 2
    clock.now += 2
    assert kept.take("a.test", 2.0) == 0 and kept.take("a.test", 2.0) == 2
    assert kept.take("b.test", 0.0) == 0


def test_hosts_that_may_be_asked_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_REMEMBERED", 10)
    clock = Clock()
    kept = LocalPace(clock)
    for number in range(100):
        assert kept.take(f"{number}.test", 0.5) == 0
        clock.now += 0.25
    assert len(kept._free) <= 12
    assert kept.take("99.test", 0.5) == 0.25
    free = LocalPace(clock)
    assert free.take("a.test", 0.0) == 0 and not free.is_kept


def test_whose_pace_a_url_is_asked_at() -> None:
    keys = {
        "http://A.test/x": "a.test",
        "https://a.test/y": "a.test",
        "http://a.test:8080/": "a.test:8080",
        "https://[2001:db8::1]/": "2001:db8::1",
    }
    assert {url: host_key(yarl.URL(url)) for url in keys} == keys


def test_nobody_is_asked_where_nobody_counts() -> None:
    lost = SocketPace("gristmill-pace-nobody")
    for call in (lost.take, lost.pause):
        with pytest.raises(PaceLost):
            call("a.test", 1.0)
