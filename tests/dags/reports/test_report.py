"""Reports of nothing, of too much, and of hostile text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from gristmill.dags.engine.progress import LiveProgress, make_progress
from gristmill.dags.engine.summary import RuleOutcome
from gristmill.dags.reports.report import (
    ErrorCause,
    FaultTruth,
    FunnelStep,
    Histogram,
    HostOutcome,
    PictureGrid,
    ReportData,
    Thumbnail,
    clock,
    histogram_bars,
    render_html,
    render_terminal,
    threshold_x,
)
from gristmill.pipelines.storage import Folder

NASTY = '<script>alert("x")</script> \u202e & \x00 ' + "long " * 500


def report(**changes: object) -> ReportData:
    base = {
        "title": "t", "source": "s", "out": "o", "command": "gristmill run", "seconds": 1.0,
        "peak_rss_mb": 10.0, "rows_in": 0, "kept": 0, "dropped": 0, "merged": 0, "ledger_ok": True,
    }  # fmt: skip
    return ReportData(**{**base, **changes})  # type: ignore[arg-type]


def terminal(data: ReportData, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_terminal(data, "runs/x/report.html"))
    return console.export_text()


def test_a_run_of_nothing() -> None:
    assert "0</b>" in render_html(report())
    assert "0 of 0 rows kept" in terminal(report())


def test_rows_that_were_made_on_the_way_are_counted_with_those_that_came_in() -> None:
    funnel = [
        FunnelStep("crops", "Crops", 42, 75, 33, 0, {}),
        FunnelStep("k", "K", 75, 52, 0, 0, {}),
    ]
    data = report(rows_in=42, kept=52, funnel=funnel)
    assert "52 of 75 rows kept (69.3%; 42 came in, 33 were made on the way)" in terminal(data, 120)
    page = render_html(data)
    assert "52 of 75 rows kept" in page and "42 came in, 33 were made on the way" in page
    assert "69.3%" in page and "12" + "3.8%" not in page


def test_a_ledger_that_does_not_add_up_cannot_be_overlooked() -> None:
    data = report(ledger_ok=False)
    assert "Do not use these shards" in render_html(data)
    assert "DOES NOT ADD UP" in terminal(data)


def test_hostile_text_stays_text() -> None:
    picture = Thumbnail("u", NASTY, "data:image/jpeg;base64,AA==", NASTY)
    data = report(
        rows_in=10, kept=1, dropped=9, warnings=[NASTY], kept_pictures=[picture],
        funnel=[FunnelStep("n", "S", 10, 1, 0, 0, {NASTY: 9})],
        rules=[RuleOutcome(NASTY, "a < 1", "a < 1", 9, "")],
        dropped_pictures=[PictureGrid("n", NASTY, 9, [picture])],
        errors=[ErrorCause(NASTY, "n", 9, "http://x/" + NASTY)],
        hosts=[HostOutcome(NASTY, 1, 9, NASTY)],
    )  # fmt: skip
    html = render_html(data)
    assert "<script" not in html and "&lt;script&gt;" in html
    assert len(html) < 60_000, "long captions are cut"
    terminal(data)


def test_a_hundred_reasons_fold() -> None:
    dropped = {f"reason {i:03d}": 100 - i for i in range(100)}
    data = report(rows_in=6000, kept=950, dropped=5050, funnel=[
        FunnelStep("keep", "Keep", 6000, 950, 0, 0, dropped)
    ])  # fmt: skip
    assert "90 more reasons" in render_html(data)
    assert "and 92 more" in terminal(data)


def test_histograms_are_drawn_to_scale() -> None:
    histogram = Histogram("x", "n", [0.0, 1.0, 2.0], [10, 5], [5, 0], [("low", 0.5)], 3)
    first, second = histogram_bars(histogram)
    assert first.all_height == 2 * second.all_height == 2 * first.kept_height
    assert threshold_x(histogram, 0.5) == 75 and threshold_x(histogram, 9) is None
    assert "3 without" in render_html(report(rows_in=1, histograms=[histogram]))


def test_truth_has_recall_and_precision() -> None:
    fault = FaultTruth("dead link", 10, 8, 2, [("http 404", 8)])
    assert (fault.recall, fault.precision) == (0.8, 0.8)
    text = terminal(report(truth=[fault], wrong_caption_auc=0.9876), 120)
    assert "0.800" in text and "0.988" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (75, "1 min 15 s"), (7300, "2 h 1 min")]
)
def test_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_plain_progress_is_a_line_an_event_and_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_progress(log=Folder(str(tmp_path))) as progress:
        progress.start("download", 2, 100)
        progress.advance("download", rows=50, kept=40)
        progress.advance("download", rows=50, kept=45, reused=True)
        progress.finish("download")
        progress.warn("look")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "rows=100 kept=85" in lines[1] and "reused=1" in lines[1]
    logged = next((tmp_path / "logs").iterdir()).read_text().splitlines()
    assert logged == lines


def test_live_progress_shows_bars() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    progress = make_progress(console)
    assert isinstance(progress, LiveProgress)
    with progress:
        progress.start("download", 2, 100)
        progress.advance("download", rows=50, kept=40)
        progress.note("a note")
    assert "download" in stream.getvalue() and "a note" in stream.getvalue()
    assert "80% kept" in stream.getvalue()
