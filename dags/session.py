"""A run as a person sees it: progress while it goes, a summary at its end, the report beside it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress, make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import render_html, render_terminal
from gristmill.dags.runs.keep import Choice, build
from gristmill.pipelines.storage import Folder


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


def _reported(
    out: str,
    work: Callable[[Progress], RunSummary],
    *,
    plain: bool = False,
    as_json: bool = False,
    command: str = "",
) -> RunSummary:
    console = Console()
    with make_progress(console, plain or None, Folder(out), as_json=as_json) as progress:
        summary = work(progress)
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
