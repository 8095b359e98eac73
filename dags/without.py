"""A Dag without a node: what stands on the node goes with it, or does without, and each is said."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from gristmill.dags.graph import Dag, Node, columns_written, is_row_stage
from gristmill.errors import GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.rules import columns_in
from gristmill.pipelines.stage import Global, Read, Score, Stage, Write


def without(dag: Dag, name: str) -> Dag:
    """`dag` without the Score or Global node `name`; `left_out` gains a line for all that changes.

    Nodes that cannot do without its columns go too, rules that name them are left out, and so are
    preferences among copies and captions. Raises `GraphError` for a node that rows go through, and
    where one of those needs the columns.
    """
    if reason := why_not(dag, name):
        raise GraphError(f"{name} cannot be left out: {reason}")
    lost = {column.name for column in columns_written(dag.stage(name))}
    dag = _removed(dag, name)
    dag = _said(dag, f"without {name}: left out")
    for other in dag.order():
        if other not in dag.nodes:
            continue
        available = dag.columns(other)
        stage = dag.stage(other)
        gone = lost - set(available.names)
        changed, lines = _without_columns(stage, gone)
        complaint = _complaint(changed, available)
        if not complaint:
            dag = dag.replace(other, changed)
        elif is_row_stage(stage) or isinstance(stage, Write):
            raise GraphError(
                f"{name} cannot be left out: {other} needs its columns, and is no node that can "
                f"go ({complaint})"
            )
        else:
            lines = [f"left out as well: {complaint}"]
            lost |= {column.name for column in columns_written(stage)}
            dag = _removed(dag, other)
        for line in lines:
            dag = _said(dag, f"without {name}: {other}: {line}")
    return dag


def why_not(dag: Dag, name: str) -> str:
    """Why a node cannot be left out; empty if it can."""
    stage = dag.stage(name)
    if isinstance(stage, Read):
        return "it is the source, where rows come from"
    if isinstance(stage, Keep):
        return f"it decides which rows stay; empty its rules instead: --set {name}.rules={{}}"
    if isinstance(stage, Write):
        return "it writes what the run is for"
    if not isinstance(stage, Score | Global):
        return f"rows go through it, and what follows works on what {type(stage).__name__} makes"
    return ""


def _without_columns(stage: Stage, gone: set[str]) -> tuple[Stage, list[str]]:
    """A stage that does without the columns that are gone as far as it can, and what is left out
    of it, in words."""
    lines = []
    if isinstance(stage, Keep):
        rules = dict(stage.rules)
        for reason, rule in stage.rules.items():
            missing = columns_in(rule, sorted(gone))
            if missing:
                del rules[reason]
                lines.append(f"rule {reason!r} left out, it names {', '.join(missing)}")
        changes: dict[str, object] = {"rules": rules}
        if stage.captions == "best" and stage.best_by in gone:
            changes["captions"] = "first"
            lines.append(f"captions=first, not the best by {stage.best_by}")
        stage = dataclasses.replace(stage, **changes) if lines else stage  # type: ignore[arg-type]
    preferred = getattr(stage, "prefer", ())
    if gone & set(preferred):
        left = tuple(column for column in preferred if column not in gone)
        lines.append(f"nothing is preferred by {', '.join(sorted(gone & set(preferred)))}")
        stage = dataclasses.replace(stage, prefer=left)  # type: ignore[call-arg]
    return stage, lines


def _complaint(stage: Stage, available: pa.Schema) -> str:
    """What a stage misses among the columns that come in, in words; empty if nothing."""
    try:
        stage.resolve_columns(available)
    except GraphError as error:
        return str(error).partition(";")[0]
    return ""


def _removed(dag: Dag, name: str) -> Dag:
    """The same graph without a node; what took it takes those of its inputs that it has not got
    in another way."""
    nodes = dict(dag.nodes)
    bypass = nodes.pop(name).inputs
    for other, node in nodes.items():
        if name in node.inputs:
            inputs = [one for one in node.inputs if one != name]
            reached = {above for one in inputs for above in (one, *dag.upstream(one))}
            inputs += [one for one in bypass if one not in reached]
            nodes[other] = Node(node.stage, tuple(inputs))
    return dataclasses.replace(dag, nodes=nodes)


def _said(dag: Dag, line: str) -> Dag:
    return dataclasses.replace(dag, left_out=(*dag.left_out, line))
