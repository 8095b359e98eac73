"""A report is gathered a part at a time: it says the same however the run is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import HERE, toy_dag

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import ReportData, render_html
from gristmill.errors import RunError


def finished(out: Path, part_rows: int) -> ReportData:
    options = RunOptions(runner="local", supervision=HERE)
    execute(toy_dag(part_rows), str(out), options, make_progress(plain=True))
    return gather_report(str(out), "gristmill run toy")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return finished(tmp_path_factory.mktemp("whole"), 100)


def test_rows_are_counted_sampled_and_shown(report: ReportData) -> None:
    assert report.rows_in == 20 and report.ledger_ok
    assert report.kept + report.dropped == 20
    steps = {step.node: step for step in report.funnel}
    assert steps["rows"].dropped == {"repeated row": 2}
    assert len(report.kept_pictures) == report.kept
    assert all(picture.src.startswith("data:image/jpeg") for picture in report.kept_pictures)
    [cause] = report.errors
    assert cause.node == "draw" and cause.count == steps["draw"].dropped[cause.cause]
    names = {histogram.column for histogram in report.histograms}
    assert "brightness" in names
    for histogram in report.histograms:
        assert sum(histogram.counts) + histogram.missing == steps["keep"].rows_in
        assert sum(histogram.kept) == report.kept
    assert "gristmill run toy" in render_html(report)


def test_parts_do_not_matter(report: ReportData, tmp_path: Path) -> None:
    cut = finished(tmp_path, 3)
    for name in ("funnel", "histograms", "kept_pictures", "dropped_pictures", "errors", "hosts",
                 "corpus", "quantiles", "duplicate_groups"):  # fmt: skip
        assert getattr(cut, name) == getattr(report, name), name
    assert not list((tmp_path / "scratch").glob("*")), "what went through files is removed"


def test_what_enters_keep_is_read_once_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path, 9)
    read = []
    entering = RowReader.entering

    def counted(self: RowReader, node: str, part: int, columns: list[str]) -> object:
        if "uid" in columns and len(columns) > 1:
            read.append((node, part))
        return entering(self, node, part, columns)

    monkeypatch.setattr(RowReader, "entering", counted)
    gather_report(str(tmp_path))
    assert read == [("keep", 0), ("keep", 1)]


def test_a_run_that_is_not_finished_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        gather_report(str(tmp_path))
