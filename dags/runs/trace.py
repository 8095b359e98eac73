"""Whence a sample came, each score, each verdict, and in which shard it lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gristmill.dags.engine.ledger import paths
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, RunLayout
from gristmill.dags.graph import is_row_stage
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.errors import RunError
from gristmill.pipelines.schema import normalise_url
from gristmill.pipelines.stage import Map, Read, Write


@dataclass
class Trace:
    """Everything a run knows about one sample."""

    uid: str
    # Its line of the ledger, without what is null.
    outcome: dict[str, object]
    # Node -> its columns for this sample.
    nodes: dict[str, dict[str, object]] = field(default_factory=dict)
    # Shard file, relative to the run; None for rows that were not kept.
    shard: str | None = None


def trace_sample(out: str, wanted: str) -> list[Trace]:
    """Traces of the sample with this uid, or of all with this URL or path (whole, or its end); of
    its pieces where it has no line of its own, as a document none of whose pictures is left.
    `RunError` if there is none."""
    layout = open_run(out)
    parts = finished_parts(layout)
    with where_it_ran(layout):
        found = _outcomes(layout, parts, {wanted})
        if not found:
            found = _outcomes(layout, parts, _pieces(layout, parts, wanted))
    if not found:
        raise RunError(
            f"no row of {out} has the uid, URL or path {wanted!r}; uids are the keys of the "
            "shards, and the ledger has all three"
        )
    return found


def _named(table: pa.Table, wanted: set[str]) -> list[int]:
    """Rows with one of these uids, URLs or paths."""
    urls = {normalise_url(one) for one in wanted if "://" in one}
    ends = tuple(f"/{one.removeprefix('./').lstrip('/')}" for one in wanted)
    named = set(wanted)
    found = []
    places = table["path"] if "path" in table.column_names else table["url"]
    columns = (table[name].to_pylist() for name in ("uid", "url"))
    for i, (uid, url, path) in enumerate(zip(*columns, places.to_pylist(), strict=True)):
        by_url = bool(urls) and bool(url) and normalise_url(url) in urls
        by_path = "://" not in (path or "") and f"/{path or ''}".endswith(ends)
        if uid in named or path in named or by_url or by_path:
            found.append(i)
    return found


def _outcomes(layout: RunLayout, parts: int, wanted: set[str]) -> list[Trace]:
    found = []
    for part in range(parts):
        ledger = layout.folder.read_table(f"ledger/{part:06d}.parquet")
        for row in _named(ledger, wanted):
            line = ledger.slice(row, 1).to_pylist()[0]
            outcome = {name: value for name, value in line.items() if value is not None}
            found.append(_trace(layout, part, outcome))
    return found


def _pieces(layout: RunLayout, parts: int, wanted: str) -> set[str]:
    """uids of all that a row of the source was cut into."""
    found: set[str] = set()
    for node in layout.dag.order():
        stage = layout.dag.stage(node)
        if not isinstance(stage, Read | Map):
            continue
        for part in range(parts):
            store = layout.store(node)
            names = ["uid", "url", "parent_uid", *(["pointer"] * isinstance(stage, Read))]
            table = store.table(store.need(part), ROWS, names)
            if isinstance(stage, Read):
                rows = _named(table.append_column("path", paths(table)), {wanted})
            else:
                parents = table["parent_uid"].to_pylist()
                rows = [i for i, parent in enumerate(parents) if parent in found]
            found |= set(table["uid"].take(pa.array(rows, pa.int64())).to_pylist())
    return found


def _trace(layout: RunLayout, part: int, outcome: dict[str, object]) -> Trace:
    uid = str(outcome["uid"])
    trace = Trace(uid, outcome)
    for node in layout.dag.order():
        stage = layout.dag.stage(node)
        if isinstance(stage, Write):
            trace.shard = _shard_of(layout, node, uid) or trace.shard
            continue
        record = layout.store(node).record(part)
        if record is None:
            continue
        table = layout.store(node).table(record, ROWS)
        table = table.filter(pc.equal(table["uid"], uid))
        names = table.column_names
        if not isinstance(stage, Read) and is_row_stage(stage):
            written = set(stage.writes().names)
            names = [name for name in names if name in written]
        for values in table.select([name for name in names if name != "uid"]).to_pylist():
            trace.nodes[node] = {k: v for k, v in values.items() if v is not None}
        if DROPPED_ROWS in record.files:
            dropped = layout.store(node).table(record, DROPPED_ROWS)
            dropped = dropped.filter(pc.equal(dropped["uid"], uid))
            if len(dropped) and not isinstance(stage, Read):
                trace.nodes[node] = dropped.select(["reason", "value"]).to_pylist()[0]
    return trace


def _shard_of(layout: RunLayout, node: str, uid: str) -> str | None:
    """The shard whose metadata names the uid."""
    folder = layout.folder.sub(node)
    for name in folder.walk():
        if "/metadata/" in f"/{name}" and name.endswith(".parquet"):
            table = folder.read_table(name, ["uid"])
            if uid in table["uid"].to_pylist():
                split, _, rest = name.partition("/metadata/")
                shard = rest.removesuffix(".parquet")
                tar = f"{split}/{shard}.tar"
                return f"{node}/{tar if folder.exists(tar) else f'{split}/{shard}.parquet'}"
    return None


def render_trace(traces: list[Trace]) -> Group:
    """Tables for a terminal."""
    pieces: list[RenderableType] = []
    for trace in traces:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column("node", style="bold", no_wrap=True)
        table.add_column("column", no_wrap=True)
        table.add_column("value", overflow="fold")
        for node, values in trace.nodes.items():
            for i, (name, value) in enumerate(values.items()):
                text = repr(value[:16]) + "..." if isinstance(value, bytes) else str(value)
                table.add_row(node if i == 0 else "", name, Text(text))
        outcome = trace.outcome
        place = outcome.get("url") or outcome.get("path") or ""
        line = f"{place} {trace.uid}: {outcome['verdict']}".lstrip()
        if outcome["verdict"] != "kept":
            line += f" by {outcome['node']}: {outcome['reason']} ({outcome.get('value', '')})"
        pieces += [Text(line, style="bold"), table]
        if trace.shard:
            pieces.append(Text(f"in {trace.shard}"))
    return Group(*pieces)
