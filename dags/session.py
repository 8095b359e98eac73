"""A run as a person sees it: progress while it goes, a summary at its end, the report beside it."""

from __future__ import annotations

from rich.console import Console

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import render_html, render_terminal
from gristmill.pipelines.storage import Folder


def run_and_report(
    dag: Dag, out: str, options: RunOptions, *, plain: bool = False, command: str = ""
) -> RunSummary:
    """Run a Dag and write its report. Returns the summary."""
    console = Console()
    with make_progress(console, plain or None, log=Folder(out)) as progress:
        summary = execute(dag, out, options, progress)
    if all(node["reused"] == node["parts"] for node in summary["nodes"].values()):
        console.print("nothing to do: every part of every node was there already")
    write_report(out, command=command, console=console)
    return summary


def write_report(out: str, *, command: str = "", console: Console | None = None) -> None:
    """Write `report.html` and print what it says in short."""
    folder = Folder(out)
    data = gather_report(out, command)
    folder.write_bytes("report.html", render_html(data).encode())
    (console or Console()).print(render_terminal(data, folder.join_url("report.html")))
