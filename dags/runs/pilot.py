"""A pilot: some rows of the source through the whole run, and what all of them would come to."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gristmill.dags.engine.clock import clock
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.part_size import part_size
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.records import Record
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag, is_row_stage
from gristmill.dags.runs.plan import open_run
from gristmill.errors import ConfigurationError
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Global, Write

FOLDER = "pilot"


@dataclass(frozen=True)
class NodeCost:
    """What one node did with the pilot's rows, and would with all."""

    node: str
    stage: str
    rows_in: int
    # Share of rows that go on; 1 for nodes that only describe.
    kept: float
    # Of one worker.
    rows_per_s: float
    peak_mb: float
    # Written for each row that came in.
    bytes_per_row: float
    # For the whole source, on one worker and in all.
    rows: float
    seconds: float
    bytes: float
    parts: float
    # Half of the width of the 90 % interval of `seconds`, as a share of it, by how the parts of the
    # pilot differ.
    spread: float


@dataclass(frozen=True)
class Pilot:
    """A pilot's figures."""

    # Rows that were run, and those of the source; None if nobody knows.
    sample: int
    total: int | None
    kept: int
    nodes: list[NodeCost]
    cpus: int


def run_pilot(
    dag: Dag, out: str, rows: int, options: RunOptions, progress: Progress, total: int | None = None
) -> Pilot:
    """Run about `rows` rows, from up to twenty places of the source, into `out`/pilot.

    `total`: rows of the source, where it cannot be told without reading it. Raises
    `ConfigurationError` for fewer than one row, or a source that cannot be sampled.
    """
    if rows < 1:
        raise ConfigurationError(f"a pilot of {rows} rows says nothing; give at least 1")
    source = dag.stage(dag.source)
    if not isinstance(source, Source):
        raise ConfigurationError(
            f"{type(source).__name__} cannot be sampled; run with --limit {rows} and see status"
        )
    if total is None:
        total = source.estimate_rows()
    small = dag.replace(dag.source, dataclasses.replace(source, sample=rows))
    # Parts of a tenth: parallel work, and part-wise memory, are seen as they are in a whole run.
    most = dag.part_rows or source.largest_part()
    small = dataclasses.replace(small, part_rows=min(most, max(rows // 10, 50)))
    place = f"{out.rstrip('/')}/{FOLDER}"
    summary = execute(small, place, options, progress)
    layout = open_run(place)
    sample = int(summary["rows_in"])
    factor = (total or sample) / max(sample, 1)
    size = dag.part_rows or part_size(round(sample * factor), source.largest_part())
    nodes = [_cost(layout, node, summary, factor, size) for node in small.order()]
    return Pilot(sample, total, int(summary["kept"]), nodes, os.cpu_count() or 1)


def _cost(
    layout: RunLayout, node: str, summary: RunSummary, factor: float, part_rows: int
) -> NodeCost:
    stage, store = layout.dag.stage(node), layout.store(node)
    records = list(store.records().values())
    rows_in = sum(record.rows_in for record in records)
    rows_out = sum(record.rows_out for record in records)
    if isinstance(stage, Write):
        rows_in = rows_out = int(summary["kept"])
    if node == layout.dag.source:
        rows_in = max(rows_in, rows_out)
    folder = layout.folder.sub(node if isinstance(stage, Write) else layout.node_folder(node))
    size = sum(folder.size(name) for name in folder.walk())
    seconds = float(summary["nodes"][node]["seconds"])
    return NodeCost(
        node=node,
        stage=type(stage).__name__,
        rows_in=rows_in,
        kept=rows_out / rows_in if rows_in and is_row_stage(stage) else 1.0,
        rows_per_s=rows_in / seconds if seconds else 0.0,
        peak_mb=max((record.peak_rss_mb for record in records), default=0.0),
        bytes_per_row=size / rows_in if rows_in else 0.0,
        rows=rows_in * factor,
        seconds=seconds * factor,
        bytes=size * factor,
        parts=max(float(summary["rows_in"]) * factor / part_rows, 1.0),
        spread=_spread(records),
    )


def _spread(records: Sequence[Record]) -> float:
    """Half of the width of the 90 % interval of the seconds a row, as a share of their mean; 0 for
    fewer than two parts."""
    pace = [record.seconds / record.rows_in for record in records if record.rows_in]
    mean = sum(pace) / max(len(pace), 1)
    if len(pace) < 2 or not mean:
        return 0.0
    return 1.645 * statistics.stdev(pace) / math.sqrt(len(pace)) / mean


def render_pilot(pilot: Pilot, dag: Dag) -> Group:
    """For a terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("node", "rows in", "goes on", "rows/s", "peak MB", "bytes/row"):
        table.add_column(name, justify="left" if name == "node" else "right")
    for name in ("all: rows", "worker time", "GB"):
        table.add_column(name, justify="right", style="bold")
    for node in pilot.nodes:
        table.add_row(
            node.node,
            f"{node.rows_in:,}",
            f"{node.kept:.1%}" if node.kept < 1 else "",
            f"{node.rows_per_s:,.0f}" if node.rows_per_s else "",
            f"{node.peak_mb:,.0f}" if node.peak_mb else "",
            f"{node.bytes_per_row:,.0f}",
            f"{node.rows:,.0f}",
            clock(node.seconds),
            f"{node.bytes / 1e9:,.2f}",
        )
    seconds = sum(node.seconds for node in pilot.nodes)
    about = math.hypot(*(node.seconds * node.spread for node in pilot.nodes)) / (seconds or 1.0)
    size = sum(node.bytes for node in pilot.nodes)
    known = pilot.total is not None
    whole = f"about {pilot.total:,} rows" if known else "rows of the pilot alone (give --rows)"
    share = pilot.kept / pilot.sample if pilot.sample else 0.0
    lines = [
        f"{pilot.sample:,} rows were run, {pilot.kept:,} kept ({share:.1%}). Whole source: "
        f"{whole}, {clock(seconds)} of one worker (90 % of pilots within {about:.0%}), "
        f"{clock(seconds / pilot.cpus)} on the "
        f"{pilot.cpus} cores here, {size / 1e9:,.1f} GB"
    ]
    if any(isinstance(dag.stage(node), Global) for node in dag.nodes):
        lines.append(
            "nodes that compare rows with one another grow faster than the source, and find more "
            "duplicates in the whole than in a sample"
        )
    return Group(table, *[Text(line) for line in lines])
