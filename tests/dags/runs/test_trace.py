"""Whence a sample came and where it lies, by whatever name a person has for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_world import KEPT, UNKNOWN, run_here
from toy_run import toy_dag
from toy_stages import ToyRows

from gristmill.dags.runs.trace import Trace, render_trace, trace_sample
from gristmill.errors import RunError
from gristmill.pipelines.shards.reader import ShardSet


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions a URL; number 3 could not be had, numbers 8 and 18 come twice."""
    folder = tmp_path_factory.mktemp("toys")
    run_here(folder, toy_dag(rows=ToyRows(rows=20, chunk=9, captions=2)))
    return folder / "run"


def test_every_kept_sample_is_found_by_uid_in_its_shard(home: Path) -> None:
    out = home / "run"
    samples = list(ShardSet(str(out / "shards")))
    assert {sample.caption for sample in samples} == KEPT
    # Of two shards, the first and the last sample.
    first, last = (trace_sample(str(out), samples[i].uid) for i in (0, -1))
    assert [one.shard for one in (*first, *last)] == [
        "shards/train/00000000.tar",
        "shards/train/00000001.tar",
    ]
    (one,) = last
    assert one.uid == samples[-1].uid and one.outcome["verdict"] == "kept"
    number = int(str(samples[-1].caption).split()[-1])
    assert one.nodes["light"]["brightness"] == pytest.approx(min(number / 10, 1))
    assert one.nodes["source"]["caption"] == f"number {number}"


def test_by_the_end_of_a_path_and_why_it_was_dropped(home: Path) -> None:
    out = str(home / "run")
    (one,) = trace_sample(out, "pictures/00.png")
    assert one.shard is None
    assert one.nodes["keep"]["reason"] == "dark" and one.nodes["keep"]["verdict"] == "dropped"
    assert [o.uid for o in trace_sample(out, "./00.png")] == [one.uid]
    assert [o.uid for o in trace_sample(out, str(home / "pictures/00.png"))] == [one.uid]
    (none,) = trace_sample(out, f"{UNKNOWN:02d}.png")
    assert none.outcome["reason"] == "no value" and "brightness" not in none.nodes["light"]
    text = _text([one])
    assert f"{one.uid}: dropped by keep: dark (brightness=0.0)" in text and "in shards" not in text


def test_by_url_all_captions_of_it_whatever_its_spelling(toys: Path) -> None:
    both = trace_sample(str(toys), "http://toy.test/5")
    assert [one.nodes["rows"]["caption"] for one in both] == ["picture 10", "picture 11"]
    assert {one.outcome["url"] for one in both} == {"http://toy.test/5"}
    again = trace_sample(str(toys), "HTTP://TOY.TEST/5#top")
    assert [one.uid for one in again] == [one.uid for one in both]
    # What could not be had was not looked at.
    _, failed = trace_sample(str(toys), "http://toy.test/1")
    assert failed.outcome["node"] == "draw" and failed.outcome["reason"] == "http 404"
    assert failed.nodes["draw"]["error"] == "http 404" and "bright" not in failed.nodes
    # A row that came twice has two ends, and one uid.
    first, second = trace_sample(str(toys), "http://toy.test/9")
    assert first.uid == second.uid and first.outcome["verdict"] == "kept"
    assert second.outcome["reason"] == "repeated row"


@pytest.mark.parametrize("wanted", ["0" * 32, "http://toy.test/77", "0.png", "pictures"])
def test_what_is_unknown_is_said_with_where_to_look(home: Path, wanted: str) -> None:
    with pytest.raises(RunError, match=rf"(?s){wanted}.*the ledger has all three"):
        trace_sample(str(home / "run"), wanted)


def _text(traces: list[Trace]) -> str:
    from rich.console import Console

    console = Console(width=150)
    with console.capture() as said:
        console.print(render_trace(traces))
    return said.get()
