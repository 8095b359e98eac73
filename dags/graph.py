"""A Dag: named stages and the edges between them, checked before anything runs.

Rows flow along one chain of *row nodes* (the source, every Map, every Keep); Score and Global nodes
hang columns on the rows of the chain. That is what lets a changed threshold rerun only the Keep
node and what follows it, and what makes the ledger one equation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from gristmill.errors import (
    ConfigurationError,
    GraphError,
    GristmillError,
    MissingWeightsError,
    nearest,
)
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ROW_FACTS, ColumnFacts
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.stage import Global, Map, Read, Score, Stage, Write, check_settings

IMAGE = "image"
BLOB = pa.schema(
    [
        # Where the bytes of a row lie in the blob file of its part.
        pa.field("blob_offset", pa.int64()),
        pa.field("blob_size", pa.int64()),
        # Of these bytes; null in parts of a time before it was kept.
        pa.field("stored_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class Node:
    """A stage and the names of the nodes whose rows and columns it receives."""

    stage: Stage
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dag:
    """Named nodes in the order they were written. `part_rows` rows make one unit of work; 0: as
    many as suit the size of the source."""

    name: str
    nodes: Mapping[str, Node]
    part_rows: int = 0
    # What a person would want to read about it: the recipe's docstring.
    doc: str = field(default="", compare=False)
    # What `without` left out, one line each.
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def stage(self, name: str) -> Stage:
        """The stage of a node; `GraphError` with the nearest name if there is none."""
        return self.node(name).stage

    def node(self, name: str) -> Node:
        """A node; `GraphError` with the nearest name if there is none."""
        if name not in self.nodes:
            raise GraphError(f"no node {name!r} in {self.name}; {nearest(name, self.nodes)}")
        return self.nodes[name]

    def replace(self, name: str, stage: Stage) -> Dag:
        """The same graph with another stage at a node."""
        nodes = dict(self.nodes)
        nodes[name] = dataclasses.replace(self.node(name), stage=stage)
        return dataclasses.replace(self, nodes=nodes)

    def without_idle(self) -> Dag:
        """The same graph without stages that have nothing to do; what took them takes their
        inputs."""
        nodes = dict(self.nodes)
        for name in [name for name, node in nodes.items() if node.stage.is_disabled()]:
            bypass = nodes.pop(name).inputs
            for other, node in nodes.items():
                if name in node.inputs:
                    inputs = [n for i in node.inputs for n in (bypass if i == name else (i,))]
                    nodes[other] = Node(node.stage, tuple(dict.fromkeys(inputs)))
        return dataclasses.replace(self, nodes=nodes)

    def without(self, *names: str) -> Dag:
        """The same graph without nodes, and without what stands on them; `left_out` says what that
        is. Raises `GraphError` for a node that cannot go."""
        from gristmill.dags.without import without

        dag = self
        for name in names:
            # One may have gone with another.
            if name in dag.nodes or name not in self.nodes:
                dag = without(dag, name)
        return dag

    def order(self) -> list[str]:
        """Names so that every node follows its inputs, otherwise as written. Raises on a cycle."""
        done: list[str] = []
        waiting = dict(self.nodes)
        while waiting:
            ready = [name for name, node in waiting.items() if set(node.inputs) <= set(done)]
            if not ready:
                raise GraphError(
                    f"{self.name} has a cycle through {', '.join(sorted(waiting))}; "
                    "a node may only take nodes that do not depend on it"
                )
            done.append(ready[0])
            del waiting[ready[0]]
        return done

    def upstream(self, name: str) -> list[str]:
        """All nodes that `name` depends on, in order."""
        needed = set(self.node(name).inputs)
        order = self.order()
        for other in reversed(order[: order.index(name)]):
            if other in needed:
                needed |= set(self.nodes[other].inputs)
        return [other for other in order if other in needed]

    def row_node(self, name: str) -> str:
        """The last row node (Read, Map, Keep) above `name`: the one whose rows it receives."""
        above = [n for n in self.upstream(name) if is_row_stage(self.nodes[n].stage)]
        if not above:
            raise GraphError(f"{name} receives no rows: none of its inputs leads to a source")
        return above[-1]

    def columns(self, name: str) -> pa.Schema:
        """The columns that enter `name`."""
        fields: dict[str, pa.Field] = {}
        for other in self.upstream(name):
            stage = self.nodes[other].stage
            if isinstance(stage, Map):
                fields = {
                    name: field for name, field in fields.items() if stage.forwards_column(name)
                }
            for column in columns_written(stage):
                fields[column.name] = column
        return pa.schema(list(fields.values()))

    def column_facts(self, name: str) -> dict[str, ColumnFacts]:
        """What is known of the columns that may enter `name`."""
        facts = dict(ROW_FACTS)
        for other in self.upstream(name):
            facts.update(self.nodes[other].stage.describes())
        return facts

    def warnings(self) -> list[str]:
        """What a person should know of stages before they run, and a line for each rule that
        compares a column with what it can never be; a source says by itself what it left aside."""
        stages = [(name, self.nodes[name].stage) for name in self.order()]
        return [
            *(f"{n}: {note}" for n, s in stages if not isinstance(s, Read) for note in s.notes()),
            *self._range_warnings(),
        ]

    def _range_warnings(self) -> list[str]:
        return [
            f"{name}: rule {reason!r}: {warning}"
            for name in self.order()
            if isinstance(stage := self.nodes[name].stage, Keep)
            for reason, warning in stage.range_warnings(self.column_facts(name)).items()
        ]

    @property
    def source(self) -> str:
        """Name of the one Read node."""
        return next(n for n, node in self.nodes.items() if isinstance(node.stage, Read))

    def validate(self) -> None:
        """Raise `GraphError` or `ConfigurationError` for whatever cannot work, before any work."""
        if self.part_rows < 0:
            raise ConfigurationError(
                f"part_rows is {self.part_rows}; it must be at least 1, or 0 for what suits the "
                "source"
            )
        _check_names_and_edges(self)
        self.order()
        _check_chain(self)
        _check_written_once(self)
        for name in self.order():
            node = self.nodes[name]
            try:
                node.stage.resolve_columns(self.columns(name))
            except GraphError as error:
                raise GraphError(f"node {name!r}: {error}") from error

    def check_stages(self) -> None:
        """Have every stage check its fields and its weights."""
        for name, node in self.nodes.items():
            try:
                check_settings(node.stage)
                node.stage.check()
            except ConfigurationError as error:
                raise type(error)(self.explain(name, error)) from error

    def explain(self, name: str, error: GristmillError) -> str:
        """What a node's stage complains of, with the node's name and, for weights, how to give
        them or to do without."""
        from gristmill.dags.without import why_not

        ways = []
        if isinstance(error, MissingWeightsError):
            ways = [f"--set {name}.{error.setting}=PATH"] if error.setting else []
            ways += [] if why_not(self, name) else [f"--without {name}"]
        return f"node {name!r}: {error}" + (f" ({', or '.join(ways)})" if ways else "")


def is_row_stage(stage: Stage) -> bool:
    """Whether a stage decides which rows there are, rather than describing or writing them."""
    return isinstance(stage, (Read, Map, Keep))


def stores_images(stage: Stage) -> bool:
    """Whether a stage stores the bytes of pictures beside its rows."""
    return isinstance(stage, Map) and IMAGE in stage.writes().names


def columns_written(stage: Stage) -> list[pa.Field]:
    """Columns that nodes below can read; stored pictures appear as the place where they lie, and
    verdicts not at all."""
    if isinstance(stage, (Keep, Write)):
        return []
    fields = [column for column in stage.writes() if column.name != IMAGE]
    return fields + (list(BLOB) if stores_images(stage) else [])


def _check_names_and_edges(dag: Dag) -> None:
    for name, node in dag.nodes.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise GraphError(f"node name {name!r}: use lower-case letters, digits and underscores")
        for other in node.inputs:
            if other not in dag.nodes:
                raise GraphError(
                    f"node {name!r} takes {other!r}, which does not exist; "
                    f"{nearest(other, dag.nodes)}"
                )
        if isinstance(node.stage, Read) == bool(node.inputs):
            raise GraphError(
                f"node {name!r} ({type(node.stage).__name__}) has inputs {list(node.inputs)}; "
                "a source has none and every other node has at least one"
            )
    reads = [name for name, node in dag.nodes.items() if isinstance(node.stage, Read)]
    if len(reads) != 1:
        raise GraphError(f"{dag.name} has {len(reads)} sources ({', '.join(reads)}); give it one")


def _check_written_once(dag: Dag) -> None:
    """A column that describes the same rows has one writer: of two, nobody could tell which is
    read. After rows went through a node it may be found anew, but none of the source's."""
    for name in dag.order():
        writers: dict[str, str] = {}
        for other in (*dag.upstream(name), name):
            stage = dag.nodes[other].stage
            if is_row_stage(stage):
                of_source = {
                    column: writer
                    for column, writer in writers.items()
                    if isinstance(dag.nodes[writer].stage, SourceColumns)
                }
                writers = of_source
            elif isinstance(stage, (Score, Global)):
                for column in stage.writes().names:
                    # SQL knows no case.
                    first = writers.setdefault(column.lower(), other)
                    if first != other:
                        raise GraphError(
                            f"nodes {first!r} and {other!r} both write the column {column!r}; let "
                            "one of them call it otherwise"
                        )


def _check_chain(dag: Dag) -> None:
    """Row nodes form one chain, so that each input row has one fate."""
    last: dict[str, str] = {}
    for name in dag.order():
        stage = dag.nodes[name].stage
        if not isinstance(stage, (Read, Map, Keep, Score, Global, Write)):
            raise GraphError(
                f"node {name!r}: {type(stage).__name__} is none of Read, Map, Score, Global, "
                "Keep, Write; derive it from one of them"
            )
        if isinstance(stage, (Score, Global)) and not stage.writes().names:
            raise GraphError(
                f"node {name!r}: {type(stage).__name__} writes no column; define writes(), the "
                "schema of what it finds"
            )
        if isinstance(stage, Read):
            continue
        above = dag.row_node(name)
        for other in dag.nodes[name].inputs:
            mine = other if is_row_stage(dag.nodes[other].stage) else dag.row_node(other)
            if mine != above and mine not in dag.upstream(above):
                raise GraphError(f"node {name!r} mixes the rows of {mine!r} and {above!r}")
            if mine not in (above, other) and other not in dag.upstream(above):
                # Its columns would have no way here: they are joined where its rows are taken on.
                raise GraphError(
                    f"node {name!r} takes {other!r}, which describes the rows of {mine!r}, but is "
                    f"given those of {above!r}; let {other!r} take {above!r}, or {above!r} take "
                    f"{other!r}"
                )
            if isinstance(dag.nodes[other].stage, Write):
                raise GraphError(f"node {name!r} takes {other!r}, whose product is for readers")
        if is_row_stage(stage):
            if above in last:
                raise GraphError(
                    f"{last[above]!r} and {name!r} both decide about the rows of {above!r}; "
                    "a run has one chain of decisions: let one follow the other"
                )
            last[above] = name
