"""Progress: lines for a log, bars for a person, and the same lines in the run's own log."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gristmill.dags.engine.progress import LiveProgress, Progress, make_progress
from gristmill.pipelines.storage import Folder


def test_events_for_a_collector_say_the_same_in_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = make_progress(as_json=True)
    progress.start("download", 1, 10)
    progress.advance("download", rows=10, kept=7, dropped={"HTTP 404": 3}, size=500)
    progress.finish("download")
    progress.warn("look: here")
    start, done, warning = map(json.loads, capsys.readouterr().err.splitlines())
    assert start["event"] == done["event"] == "node" and start["node"] == "download"
    assert done["rows_dropped"] == {"HTTP 404": 3} and done["bytes"] == 500
    assert (done["parts"], done["parts_done"], done["rows"], done["rows_kept"]) == (1, 1, 10, 7)
    assert (warning["event"], warning["message"]) == ("warning", "look: here")
    assert "node" not in warning and warning["time"].endswith("+00:00")


def test_a_node_s_lines_go_to_standard_error_and_to_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(Folder(str(tmp_path))) as progress:
        progress.note("four lines were left aside")
        progress.start("clip", 2, 30)
        progress.advance("clip", rows=20, kept=15)
        progress.advance("clip", rows=10, kept=10, reused=True)
        progress.finish("clip")
        progress.warn("a rule drops nothing")
    shown = capsys.readouterr().err
    logs = list((tmp_path / "logs").iterdir())
    assert len(logs) == 1 and logs[0].read_text() == shown
    # Without the time of day.
    texts = [line[9:] for line in shown.splitlines()]
    assert texts[0] == "note: four lines were left aside"
    assert texts[1] == "clip: start parts=2 rows=30"
    assert texts[-2].startswith("clip: done parts=2/2 seconds=")
    assert texts[-2].endswith(" reused=1 rows=30 kept=25")
    assert texts[-1] == "warning: a rule drops nothing"


def test_nothing_to_say_leaves_no_log(tmp_path: Path) -> None:
    with Progress(Folder(str(tmp_path))):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_person_sees_bars_and_warnings_but_not_every_event() -> None:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=120, color_system=None, highlight=False
    )
    with LiveProgress(console) as progress:
        progress.start("clip", 2, 30)
        progress.advance("clip", rows=20, kept=15)
        progress.advance("clip", rows=10, kept=10)
        progress.warn("[odd] a rule drops nothing")
        progress.finish("clip")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "30/30 rows" in shown and "83% kept" in shown
    assert "[odd] a rule drops nothing" in shown and "start parts" not in shown


@pytest.mark.parametrize(
    ("terminal", "plain", "live"),
    [(True, None, True), (True, True, False), (False, None, False), (False, False, True)],
)
def test_bars_are_for_terminals(terminal: bool, plain: bool | None, live: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert isinstance(make_progress(console, plain), LiveProgress) is live
    assert not isinstance(make_progress(None), LiveProgress)
