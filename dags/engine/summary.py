"""summary.json: what a run came to, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from gristmill.dags.engine.advice import advice
from gristmill.dags.engine.barriers import PHASE, phase_seconds
from gristmill.dags.engine.ledger import NodeCount, kept_rows
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.saved import load_saved_table
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import find_sealed
from gristmill.pipelines.shards.reader import read_manifest
from gristmill.pipelines.stage import Global, Write
from gristmill.pipelines.storage import Folder


class NodeSummary(TypedDict):
    """What one node did; `seconds` and `rows_per_s` are of when it was done, not of this run."""

    parts: int
    reused: int
    seconds: float
    rows_per_s: float


class ProductCounts(TypedDict):
    """Shards and samples of each split of the product."""

    shards: dict[str, int]
    samples: dict[str, int]


class RunSummary(TypedDict):
    """What `summary.json` holds."""

    rows_in: int
    kept: int
    # Node -> reason -> rows.
    dropped: dict[str, dict[str, int]]
    # Rows that nodes added, such as the clips of a video.
    born: int
    merged: int
    ledger_ok: bool
    seconds: float
    peak_rss_mb: float
    nodes: dict[str, NodeSummary]
    # What a person should do about how it ended; empty if nothing.
    advice: NotRequired[list[str]]
    # Of runs that have a product.
    shards: NotRequired[dict[str, int]]
    samples: NotRequired[dict[str, int]]


@dataclass(frozen=True)
class RuleOutcome:
    """What one rule of a Keep node did."""

    name: str
    sql: str
    # The rule with the values of its quantiles.
    resolved: str
    dropped: int
    # Why it deserves a look; empty if it does not.
    warning: str
    # Rows dropped because the rule had no value.
    no_value: int = 0


class SavedRule(TypedDict):
    """A row of the table `rules` that a Keep node saves."""

    rule: str
    sql: str
    resolved: str
    dropped: int
    # Of nodes decided since these are written down: see `gristmill.pipelines.keep`.
    broken: NotRequired[int]
    taken_by: NotRequired[str | None]
    no_value: NotRequired[int]


def keep_outcomes(layout: RunLayout, node: str) -> list[RuleOutcome]:
    """What each rule of a Keep node did, in order."""
    folder = layout.folder.sub(layout.last_folder(node))
    rules: list[SavedRule] = load_saved_table(folder, "saved/rules.parquet").to_pylist()
    entering = sum(record.rows_in for record in layout.store(node).records().values())
    stage = layout.dag.stage(node)
    assert isinstance(stage, Keep)
    ranges = stage.range_warnings(layout.dag.column_facts(node))
    return [rule_outcome(rule, entering, ranges.get(rule["rule"], "")) for rule in rules]


def rule_outcome(rule: SavedRule, entering: int, beyond: str) -> RuleOutcome:
    """What a rule did to the rows that entered, and what is odd about it; `beyond`: that it
    compares a column with what it can never be. Nothing is odd about a rule without rows."""
    name, resolved, missing = rule["rule"], rule["resolved"], rule.get("no_value", 0)
    warning = ""
    if entering and rule["dropped"] == entering:
        warning = f"rule {name!r} drops all {entering} rows: {resolved}"
    elif entering and rule["dropped"] == 0:
        warning = _drops_nothing(name, resolved)
        if taken := rule.get("taken_by"):
            warning += f"; all {rule.get('broken', 0):,} rows that it means were taken before it"
            warning += f", most by {taken!r}"
    if entering and missing == entering:
        warning = f"rule {name!r} has no value for any of {entering} rows: {resolved}"
    if entering and beyond:
        warning = f"{warning}; {beyond}" if warning else f"rule {name!r}: {beyond}"
    return RuleOutcome(name, rule["sql"], resolved, rule["dropped"], warning, missing)


def _drops_nothing(name: str, resolved: str) -> str:
    return f"rule {name!r} drops nothing: {resolved}"


def rule_warnings(outcomes: Sequence[RuleOutcome]) -> list[str]:
    """What deserves a look; rules that drop nothing share one line."""
    plain = [one for one in outcomes if one.warning == _drops_nothing(one.name, one.resolved)]
    idle = plain if len(plain) > 1 else []
    found = [one.warning for one in outcomes if one.warning and one not in idle]
    if idle:
        found.append("rules that drop nothing: " + ", ".join(repr(one.name) for one in idle))
    return found


def summarise(
    layout: RunLayout,
    parts: int,
    counts: Mapping[str, NodeCount] | None,
    reused: Mapping[str, int],
    seconds: float,
    peak_rss_mb: float,
) -> RunSummary:
    """The summary of a run; `counts` is None when the ledger does not add up."""
    dag = layout.dag
    counted = dict(counts or {})
    dropped = {node: dict(sorted(c.dropped.items())) for node, c in counted.items() if c.dropped}
    summary: RunSummary = {
        "rows_in": counted[dag.source].rows_in if counts else 0,
        "kept": kept_rows(dag, counted) if counts else 0,
        "dropped": dropped,
        "born": sum(count.rows_added for count in counted.values()),
        "merged": sum(count.merged for count in counted.values()),
        "ledger_ok": counts is not None,
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(peak_rss_mb, 1),
        "nodes": {node: _node(layout, node, parts, reused.get(node, 0)) for node in dag.order()},
    }
    if counts is not None:
        summary["advice"] = advice(layout, counts)
    written = [name for name in dag.order() if isinstance(dag.stage(name), Write)]
    if written:
        counted_product = product_counts(layout.folder.sub(written[0]))
        summary["shards"] = counted_product["shards"]
        summary["samples"] = counted_product["samples"]
    return summary


def product_counts(folder: Folder) -> ProductCounts:
    """Shards and samples of each split, from the product's manifest."""
    manifest = read_manifest(folder)
    shards = {split: len(found["shards"]) for split, found in manifest["splits"].items()}
    samples = {
        split: sum(shard["samples"] for shard in found["shards"])
        for split, found in manifest["splits"].items()
    }
    return {"shards": shards, "samples": samples}


def _node(layout: RunLayout, node: str, parts: int, reused: int) -> NodeSummary:
    """Parts, reused parts, and what the node cost when it was done."""
    store = layout.store(node)
    seconds, rows = 0.0, 0
    for record in store.records().values():
        seconds += record.seconds
        rows += record.rows_in
    if isinstance(layout.dag.stage(node), (Global, Write)):
        seconds += sum(_phase_seconds(one, node) for one in layout.lists)
    if isinstance(layout.dag.stage(node), Write):
        records_above = layout.store(layout.dag.row_node(node)).records()
        rows = sum(records_above[part].rows_out for part in range(parts))
    return {
        "parts": parts,
        "reused": reused,
        "seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds, 1) if seconds else 0.0,
    }


def _phase_seconds(layout: RunLayout, node: str) -> float:
    """What the phases of a barrier node took when the last list came."""
    folder = layout.folder.sub(layout.last_folder(node))
    finished = find_sealed(folder, "finished.json") or {}
    if "seconds" in finished:
        return float(finished["seconds"])
    # Of a time before it said so.
    return phase_seconds(folder, [name for name in folder.walk() if name.startswith(PHASE)])
