"""Another selection on a run whose scores are there: verdicts in seconds, nothing downloaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gristmill.dags.engine.barriers import barrier_state, is_finished, make_room
from gristmill.dags.engine.fingerprint import fingerprint
from gristmill.dags.engine.operators import PhaseOperator
from gristmill.dags.engine.rows import NodeWorkspace
from gristmill.dags.engine.run_folder import RunLayout, run_lock
from gristmill.dags.graph import Dag
from gristmill.dags.runs.plan import finished_parts, open_run
from gristmill.dags.runs.selections import SELECTIONS
from gristmill.errors import GraphError
from gristmill.pipelines.keep import KEPT, Keep


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
    seconds: float

    def uids(self) -> Iterator[list[str]]:
        """uids that are kept, part by part."""
        workspace = NodeWorkspace(self.layout, self.node, self.parts, "")
        for part in range(self.parts):
            table = workspace.load_table(f"verdicts/{part:06d}")
            yield [
                uid
                for uid, verdict in zip(
                    table["uid"].to_pylist(), table["verdict"].to_pylist(), strict=True
                )
                if verdict == KEPT
            ]


def with_keep(dag: Dag, changes: dict[str, object]) -> tuple[Dag, str]:
    """`dag` with fields of its last Keep node changed, and that node's name."""
    nodes = [name for name in dag.order() if isinstance(dag.stage(name), Keep)]
    if not nodes:
        raise GraphError(f"{dag.name} has no Keep node; there is nothing to choose by")
    stage = dag.stage(nodes[-1])
    assert isinstance(stage, Keep)
    return dag.replace(nodes[-1], dataclasses.replace(stage, **changes)), nodes[-1]  # type: ignore[arg-type]


def choose(out: str, changes: dict[str, object]) -> Choice:
    """Verdicts of the last Keep node of a finished run with these fields changed.

    Neither ledger nor shards are touched; running the Dag with the same Keep finds the verdicts
    there. Raises `GraphError` for rules that name what the run does not have.
    """
    start = time.perf_counter()
    layout = open_run(out)
    parts = finished_parts(layout)
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
    chosen = RunLayout(layout.url, dag, found, layout.limit)
    with run_lock(layout.folder):
        state = barrier_state(chosen, node, parts)
        if not is_finished(chosen, node, state):
            make_room(chosen, node, state)
            operator = PhaseOperator(chosen, node, "verdicts", parts)
            for task in range(operator.count()):
                operator(task)
    folder = chosen.folder.sub(chosen.node_folder(node))
    rules = folder.read_table("saved/rules.parquet").to_pylist()
    counts = folder.read_table("saved/counts.parquet").to_pylist()[0]
    dropped = [
        (name, count, "")
        for name, count in zip(counts["others"], counts["others_dropped"], strict=True)
    ]
    dropped += [(rule["rule"], rule["dropped"], rule["resolved"]) for rule in rules]
    return Choice(
        chosen, node, parts, counts["rows"], counts["kept"], dropped,
        time.perf_counter() - start,
    )  # fmt: skip


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
    return Group(Text(head, style="bold"), table, Text(f"in {choice.seconds:.1f} s"))
