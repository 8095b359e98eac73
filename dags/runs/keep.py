"""Another selection on a run whose scores are there: verdicts in seconds, nothing downloaded."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import pyarrow.compute as pc
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gristmill.dags.engine.barriers import barrier_state, is_finished, make_room
from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.execute import RunOptions, execute_layout
from gristmill.dags.engine.fingerprint import fingerprint
from gristmill.dags.engine.operators import PhaseOperator
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.saved import load_saved_table
from gristmill.dags.engine.summary import (
    RuleOutcome,
    RunSummary,
    SavedRule,
    rule_outcome,
    rule_warnings,
)
from gristmill.dags.engine.workspace import NodeWorkspace
from gristmill.dags.graph import Dag
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.dags.runs.selections import SELECTIONS
from gristmill.errors import GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.verdicts import KEPT, NO_VALUE


@dataclass(frozen=True)
class Choice:
    """What a Keep stage would keep of a run."""

    layout: RunLayout
    node: str
    parts: int
    rows: int
    kept: int
    # (reason, rows it dropped, the rule with the values of its quantiles).
    reasons: list[tuple[str, int, str]]
    # What deserves a look.
    warnings: list[str]
    seconds: float

    def uids(self) -> Iterator[list[str]]:
        """uids that are kept, part by part."""
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Keep)
        for one in self.layout.lists:
            parts = parts_done(one) or 0
            workspace = NodeWorkspace(one, self.node, parts, "")
            for part in range(workspace.first_part, parts):
                table = stage.columns(workspace, part)
                yield table["uid"].filter(pc.equal(table["verdict"], KEPT)).to_pylist()


class KeepChanges(TypedDict, total=False):
    """Fields of a Keep stage that a selection changes."""

    rules: Mapping[str, str]
    missing: str
    captions: str
    best_by: str
    subset: str
    subset_by: str


def with_keep(dag: Dag, changes: KeepChanges) -> tuple[Dag, str]:
    """`dag` with fields of its last Keep node changed, and that node's name."""
    nodes = [name for name in dag.order() if isinstance(dag.stage(name), Keep)]
    if not nodes:
        raise GraphError(f"{dag.name} has no Keep node; there is nothing to choose by")
    stage = dag.stage(nodes[-1])
    assert isinstance(stage, Keep)
    return dag.replace(nodes[-1], dataclasses.replace(stage, **changes)), nodes[-1]


def choose(out: str, changes: KeepChanges, *, lock: bool = True) -> Choice:
    """Verdicts of the last Keep node of a finished run with these fields changed.

    Neither ledger nor shards are touched; `build` makes them of what is returned. Works from any
    folder, and looks at neither source nor weights. Raises `GraphError` for rules that name what
    the run does not have.
    """
    start = time.perf_counter()
    layout = open_run(out)
    parts = finished_parts(layout)
    if changes.get("subset"):
        # Said where the person is, looked for where the run was started.
        changes = {**changes, "subset": os.path.abspath(changes["subset"])}
    with where_it_ran(layout):
        chosen, node = _decide(layout, changes, lock)
        outcomes, counts = _outcomes(chosen, node)
    return Choice(
        layout=chosen,
        node=node,
        parts=parts,
        rows=counts["rows"],
        kept=counts["kept"],
        reasons=_reasons(outcomes, counts),
        warnings=rule_warnings(outcomes),
        seconds=time.perf_counter() - start,
    )


def build(choice: Choice, options: RunOptions, progress: Progress) -> RunSummary:
    """Make ledger, report data and shards of a choice. What lies above its Keep node is taken as it
    is; only what follows it is looked at anew."""
    with where_it_ran(choice.layout):
        dag, found = choice.layout.dag, dict(choice.layout.fingerprints)
        for name in dag.order():
            if choice.node in dag.upstream(name):
                inputs = [found[other] for other in dag.node(name).inputs]
                found[name] = fingerprint(dag.stage(name), inputs, {})
        layout = dataclasses.replace(choice.layout, fingerprints=found)
        return execute_layout(layout, options, progress)


def _decide(layout: RunLayout, changes: KeepChanges, lock: bool) -> tuple[RunLayout, str]:
    """The run with another Keep node, and its verdicts there."""
    dag, node = with_keep(layout.dag, changes)
    stage = dag.stage(node)
    assert isinstance(stage, Keep)
    stage.check()
    try:
        stage.resolve_columns(dag.columns(node))
    except GraphError as error:
        raise GraphError(f"{error}\n{_remedy(stage)}") from error
    inputs = [layout.fingerprints[other] for other in dag.node(node).inputs]
    found = {**layout.fingerprints, node: fingerprint(stage, inputs, {})}
    chosen = RunLayout(layout.url, dag, found, layout.limit, layout.additions)
    with run_lock(layout.folder, lock=lock) as held:
        for one in chosen.lists:
            parts = parts_done(one) or 0
            state = barrier_state(one, node, parts)
            if not is_finished(one, node, state):
                held.check()
                make_room(one, node, state)
            # What is done is done; of a node that an earlier release finished, other phases are.
            for phase in stage.phases():
                operator = PhaseOperator(one, node, phase.name, parts)
                for task in range(operator.count()):
                    held.check()
                    operator(task)
    return chosen, node


class _Counts(TypedDict):
    """The one row of the table `counts` that a Keep node saves."""

    rows: int
    kept: int
    others: list[str]
    others_dropped: list[int]


def _outcomes(layout: RunLayout, node: str) -> tuple[list[RuleOutcome], _Counts]:
    """What each rule did, and the counts beside the rules."""
    folder = layout.folder.sub(layout.last_folder(node))
    rules: list[SavedRule] = load_saved_table(folder, "saved/rules.parquet").to_pylist()
    counts: _Counts = load_saved_table(folder, "saved/counts.parquet").to_pylist()[0]
    stage = layout.dag.stage(node)
    assert isinstance(stage, Keep)
    ranges = stage.range_warnings(layout.dag.column_facts(node))
    outcomes = [rule_outcome(rule, counts["rows"], ranges.get(rule["rule"], "")) for rule in rules]
    return outcomes, counts


def _reasons(outcomes: Sequence[RuleOutcome], counts: _Counts) -> list[tuple[str, int, str]]:
    """Reasons with their counts: those that are no rule, then the rules in order."""
    missing = ", ".join(f"{one.name} {one.no_value:,}" for one in outcomes if one.no_value)
    return [
        *(
            (name, count, f"of the rules: {missing}" if name == NO_VALUE and missing else "")
            for name, count in zip(counts["others"], counts["others_dropped"], strict=True)
        ),
        *((one.name, one.dropped, one.resolved) for one in outcomes),
    ]


def _remedy(stage: Keep) -> str:
    """How a run comes by columns that some selection needs."""
    needed = {name: text for one in SELECTIONS.values() for name, text in one.needs.items()}
    words = " ".join(stage.rules.values())
    lines = [
        f"{name}: run again with --set {text}" for name, text in needed.items() if name in words
    ]
    return "\n".join(lines) or (
        "a run of the image-text recipe has all columns that selections name; run it into the same "
        "folder, and what is there is used again"
    )


def render_choice(choice: Choice) -> Group:
    """For a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("reason", style="bold")
    table.add_column("dropped", justify="right")
    table.add_column("rule, with the values of its quantiles", overflow="fold")
    for name, dropped, resolved in choice.reasons:
        table.add_row(name, f"{dropped:,}", resolved)
    share = choice.kept / choice.rows if choice.rows else 0
    head = f"{choice.kept:,} of {choice.rows:,} rows would be kept ({share:.1%})"
    style = "bold" if choice.kept or not choice.rows else "bold red"
    return Group(
        table,
        *(Text(f"warning: {warning}", style="yellow") for warning in choice.warnings),
        Text(f"in {choice.seconds:.1f} s"),
        Text(head, style=style),
    )
