"""A run as a person sees it: progress while it goes, a summary at its end, the report beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress, make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import render_html, render_terminal
from gristmill.dags.runs.add import add
from gristmill.dags.runs.keep import Choice, build
from gristmill.pipelines.stage import Read
from gristmill.pipelines.storage import Folder

_Summary = TypeVar("_Summary", RunSummary, RunSummary | None)


def run_and_report(
    dag: Dag,
    out: str,
    options: RunOptions,
    *,
    plain: bool = False,
    as_json: bool = False,
    metrics: str = "",
    command: str = "",
) -> RunSummary:
    """Run a Dag and write its report. Returns the summary. `metrics`: where Prometheus is answered
    meanwhile, see `engine/metrics.py`."""

    def work(progress: Progress) -> RunSummary:
        if not metrics:
            return execute(dag, out, options, progress)
        from gristmill.dags.engine.metrics import serving

        with serving(progress, out, metrics):
            return execute(dag, out, options, progress)

    return _reported(out, work, plain=plain, as_json=as_json, command=command)


def build_and_report(choice: Choice, options: RunOptions, *, command: str = "") -> RunSummary:
    """Build ledger and shards of a selection, and write the report. Returns the summary."""
    return _reported(
        choice.layout.url, lambda progress: build(choice, options, progress), command=command
    )


def add_and_report(
    out: str,
    source: Read | None,
    options: RunOptions,
    *,
    limit: int = 0,
    plain: bool = False,
    as_json: bool = False,
    command: str = "",
) -> None:
    """Add a list to a run and write the report anew; see `add`."""

    def work(progress: Progress) -> RunSummary | None:
        added = add(out, source, options, progress, limit=limit)
        if added.note:
            progress.note(added.note)
        return added.summary

    _reported(out, work, plain=plain, as_json=as_json, command=command)


def _reported(
    out: str,
    work: Callable[[Progress], _Summary],
    *,
    plain: bool = False,
    as_json: bool = False,
    command: str = "",
) -> _Summary:
    """Do `work` on a run and write its report; where there was none to do it stays as it is."""
    console = Console()
    with make_progress(console, plain or None, Folder(out), as_json=as_json) as progress:
        summary = work(progress)
    if summary is None:
        return summary
    if all(node["reused"] == node["parts"] for node in summary["nodes"].values()):
        console.print("nothing to do: every part of every node was there already")
    write_report(out, command=command, console=console)
    if summary["rows_in"] and not summary["kept"]:
        # Last, where it is seen.
        console.print(Text(summary.get("advice", ["nothing is kept"])[0], style="bold red"))
    return summary


def write_report(out: str, *, command: str = "", console: Console | None = None) -> None:
    """Write `report.html` and print what it says in short."""
    folder = Folder(out)
    data = gather_report(out, command)
    folder.write_bytes("report.html", render_html(data).encode())
    (console or Console()).print(render_terminal(data, folder.join_url("report.html")))
