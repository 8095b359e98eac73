"""A run folder of toy stages, brought as far as a test wants by the operators themselves, here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from toy_stages import ToyBrightness, ToyDraw, ToyLength, ToyRows

from gristmill.dags.engine.map_operator import MapOperator
from gristmill.dags.engine.operators import PARTS_A_TASK, ColumnsOperator, PhaseOperator
from gristmill.dags.engine.read_parts import ScanOperator, cut_parts
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.score_operator import ScoreOperator
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Global, Map, Read, Score, Stage

HERE = Supervision(isolate=False)


def toy_dag(part_rows: int = 8, **stages: Stage) -> Dag:
    """rows -> draw -> bright, length -> keep: 20 rows, of which rows 9 and 19 repeat another."""
    nodes = {
        "rows": Node(stages.pop("rows", ToyRows(rows=20, chunk=9))),
        "draw": Node(stages.pop("draw", ToyDraw(fails=("picture 3",))), ("rows",)),
        "bright": Node(stages.pop("bright", ToyBrightness()), ("draw",)),
        "length": Node(stages.pop("length", ToyLength()), ("draw",)),
        "keep": Node(
            stages.pop("keep", Keep(rules={"short": "length < 10"})), ("bright", "length")
        ),
    }
    nodes |= {name: Node(stage, ("keep",)) for name, stage in stages.items()}
    return Dag("toy", nodes, part_rows)


def lay(folder: Path, dag: Dag | None = None, limit: int = 0) -> RunLayout:
    """Where the nodes of a Dag lie, by made-up fingerprints."""
    dag = dag or toy_dag()
    found = {name: hashlib.sha256(name.encode()).hexdigest() for name in dag.nodes}
    return RunLayout(str(folder), dag, found, limit)


def advance(layout: RunLayout, *nodes: str) -> int:
    """Do these nodes (all, if none are named), each on all parts. Returns the number of parts."""
    parts = 0
    for node in nodes or layout.dag.order():
        stage = layout.dag.stage(node)
        if isinstance(stage, Read):
            scan = ScanOperator(layout)
            for chunk in range(len(scan.chunks)):
                scan(chunk)
            cut_parts(layout, len(scan.chunks))
        parts = len(layout.store(layout.dag.source).parts())
        if isinstance(stage, Map):
            _each(MapOperator(layout, node, HERE), parts)
        elif isinstance(stage, Score):
            _each(ScoreOperator(layout, (node,), HERE), parts)
        elif isinstance(stage, Global):
            for phase in stage.phases():
                operator = PhaseOperator(layout, node, phase.name, parts)
                for task in range(operator.count()):
                    operator(task)
            _each(ColumnsOperator(layout, node, parts), -(-parts // PARTS_A_TASK))
    return parts


def _each(operator: MapOperator | ScoreOperator | ColumnsOperator, tasks: int) -> None:
    for task in range(tasks):
        operator(task)
    operator.close()


def put(
    layout: RunLayout,
    node: str,
    part: int,
    table: pa.Table,
    *,
    dropped: dict[str, int] | None = None,
    rows_in: int | None = None,
    rows_out: int | None = None,
    inputs: dict[str, str] | None = None,
) -> None:
    """Commit a part of a node by hand."""
    with layout.store(node).attempt(part) as attempt:
        attempt.write_table("rows", table)
        attempt.commit(
            inputs=inputs or {},
            rows_in=len(table) if rows_in is None else rows_in,
            rows_out=len(table) if rows_out is None else rows_out,
            dropped=dropped or {},
        )


def captions(table: pa.Table) -> Sequence[int]:
    """The numbers in the captions of toy rows."""
    return [int(text.removeprefix("picture ")) for text in table["caption"].to_pylist()]
