"""The ledger: one row for each input row, with where it ended, why, and the value that decided.

For every node rows_in + rows_added = kept + dropped + merged, and over the run each row has exactly
one fate. A ledger that does not add up is a defect, and the run fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.operators import count_values, failure_reasons
from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, RunLayout
from gristmill.dags.engine.standing import end_of
from gristmill.dags.graph import Dag, is_row_stage
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import GOING_ON
from gristmill.pipelines.schema import MERGED as MERGED_STATUS
from gristmill.pipelines.stage import Map, Read, Score, Write
from gristmill.pipelines.verdicts import DROPPED, KEPT, MERGED

_FATE = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("url", pa.string()),
        # Of a row without a URL: the file, or the place in a tar or a table, that its bytes are in.
        pa.field("path", pa.string()),
        pa.field("verdict", pa.string(), nullable=False),
        # Node and reason are null for rows that were kept.
        pa.field("node", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("value", pa.string()),
    ]
)


@dataclass
class NodeCount:
    """What went into and out of one node."""

    rows_in: int = 0
    rows_added: int = 0
    kept: int = 0
    merged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        """rows_in + rows_added = kept + dropped + merged."""
        return (
            self.rows_in + self.rows_added == self.kept + sum(self.dropped.values()) + self.merged
        )


def deciding_nodes(dag: Dag) -> list[str]:
    """Nodes at which rows can end, in order."""
    return [
        name
        for name in dag.order()
        if is_row_stage(dag.stage(name)) or isinstance(dag.stage(name), Score)
    ]


def count_nodes(
    layout: RunLayout, parts: int, losses: Mapping[str, pa.Table] | None = None
) -> dict[str, NodeCount]:
    """Counts of each deciding node, from its commit records, and of those that lost rows while
    they wrote the product; `losses`: `product_losses`, if they were read."""
    counts: dict[str, NodeCount] = {}
    for node in deciding_nodes(layout.dag):
        count = counts[node] = NodeCount()
        store = layout.store(node)
        store.records()
        for record in map(store.need, range(parts)):
            count.rows_in += record.rows_in
            count.rows_added += record.rows_added
            count.kept += record.rows_out
            count.merged += record.merged
            for reason, number in record.dropped.items():
                count.dropped[reason] = count.dropped.get(reason, 0) + number
    if losses is None:
        losses = product_losses(layout)
    for node, lost in losses.items():
        reached = kept_rows(layout.dag, counts)
        dropped = count_values(lost["reason"].to_pylist())
        counts[node] = NodeCount(rows_in=reached, kept=reached - len(lost), dropped=dropped)
    return counts


def rule_columns(dag: Dag) -> dict[str, pa.Field]:
    """The columns that some rule names, typed; the ledger keeps them."""
    found: dict[str, pa.Field] = {}
    for name, node in dag.nodes.items():
        if isinstance(node.stage, Keep):
            available = dag.columns(name)
            for column in available.names:
                if column in node.stage.columns_named(available) and column not in _FATE.names:
                    found[column] = available.field(column)
    return found


def ledger_schema(dag: Dag) -> pa.Schema:
    """Columns of the ledger: the fate, then every column that a rule names."""
    fields = [pa.field(f.name, f.type) for f in rule_columns(dag).values()]
    return pa.schema([*_FATE, *fields])


def kept_rows(dag: Dag, counts: dict[str, NodeCount]) -> int:
    """Rows of the product: those that leave the last row node, less later poison and losses."""
    nodes = deciding_nodes(dag)
    last = [name for name in nodes if is_row_stage(dag.stage(name))][-1]
    later = [n for n in nodes[nodes.index(last) + 1 :] if dag.row_node(n) == last]
    later += [node for node in counts if isinstance(dag.stage(node), Write)]
    return counts[last].kept - sum(sum(counts[n].dropped.values()) for n in later)


def check_counts(dag: Dag, counts: dict[str, NodeCount]) -> list[str]:
    """What does not add up, in words; empty if all is well."""
    problems = []
    for node, count in counts.items():
        if not count.adds_up:
            problems.append(
                f"node {node!r}: {count.rows_in} in + {count.rows_added} added is not "
                f"{count.kept} kept + {sum(count.dropped.values())} dropped + {count.merged} merged"
            )
    chain = [name for name in counts if is_row_stage(dag.stage(name))]
    for above, node in itertools.pairwise(chain):
        between = [
            name
            for name in dag.upstream(node)
            if isinstance(dag.stage(name), Score) and dag.row_node(name) == above
        ]
        # Branches see the same rows, so one row may be poison to several; it leaves once.
        lost = [sum(counts[name].dropped.values()) for name in between]
        most, least = counts[above].kept - max(lost, default=0), counts[above].kept - sum(lost)
        if not least <= counts[node].rows_in <= most:
            problems.append(
                f"{counts[above].kept} rows left {above!r}, {counts[node].rows_in} reached {node!r}"
            )
    return problems


def part_ledger(
    layout: RunLayout, reader: RowReader, part: int, losses: Mapping[str, pa.Table]
) -> pa.Table:
    """Fates of the rows of one part, in source order (children after their parents' place);
    `losses`: `product_losses`, read once."""
    schema = ledger_schema(layout.dag)
    pieces = [_fill(piece, schema) for piece in _fates(layout, reader, part, losses)]
    table = pa.concat_tables(pieces) if pieces else schema.empty_table()
    table = _first_fate(table)
    return table.sort_by([("row", "ascending"), ("uid", "ascending"), ("verdict", "ascending")])


def _fates(
    layout: RunLayout, reader: RowReader, part: int, losses: Mapping[str, pa.Table]
) -> Iterator[pa.Table]:
    dag = layout.dag
    named = rule_columns(dag)
    nodes = deciding_nodes(dag)
    for node in nodes:
        stage, record = dag.stage(node), reader.record(node, part)
        if DROPPED_ROWS in record.files:
            dropped = reader.table(node, part, DROPPED_ROWS)
            if not isinstance(stage, Read):
                dropped = _with_origin(layout, reader, node, part, dropped)
            yield _fate(dropped, DROPPED, node)
        if isinstance(stage, Map):
            names = ["uid", "row", "url", "status", "error", "parent_uid"]
            if stage.forwards_column("pointer") or "pointer" in stage.writes().names:
                names.append("pointer")
            rows = reader.table(node, part, ROWS, names)
            merged = rows.filter(pc.equal(rows["status"], MERGED_STATUS))
            if len(merged):
                merged = merged.append_column("reason", merged["error"])
                # What it went into.
                yield _fate(merged.append_column("value", merged["parent_uid"]), MERGED, node)
            ended = pc.is_in(rows["status"], pa.array([*GOING_ON, MERGED_STATUS]))
            failed = rows.filter(pc.invert(ended))
            if len(failed):
                reasons = pa.array(failure_reasons(failed), pa.string())
                failed = failed.append_column("reason", reasons)
                yield _fate(failed.append_column("value", failed["status"]), DROPPED, node)
        if isinstance(stage, Keep):
            verdicts = reader.table(node, part)
            names = ["uid", "row", "url", *_there(dag, node, ["pointer", *named])]
            entering = reader.entering(node, part, names)
            index = pc.index_in(entering["uid"], verdicts["uid"])
            verdicts = verdicts.take(index)
            for name in ("verdict", "reason", "value"):
                entering = entering.append_column(name, verdicts[name])
            ended = entering.filter(pc.not_equal(verdicts["verdict"], KEPT))
            yield ended.append_column("node", pa.array([node] * len(ended), pa.string()))
    last = [name for name in nodes if is_row_stage(dag.stage(name))][-1]
    end = end_of(dag, last)
    columns = ["uid", "row", "url", *_there(dag, end or last, ["pointer", *named])]
    kept = reader.entering(end, part, columns) if end else reader.leaving(last, part, columns)
    for node, why in losses.items():
        place = pc.index_in(kept["uid"], why["uid"].combine_chunks())
        lost = kept.filter(place.is_valid())
        for name in ("reason", "value"):
            lost = lost.append_column(name, why[name].take(place.drop_null()))
        yield _fate(lost, DROPPED, node)
        kept = kept.filter(place.is_null())
    yield kept.append_column("verdict", pa.array([KEPT] * len(kept), pa.string()))


def _there(dag: Dag, node: str, named: Iterable[str]) -> list[str]:
    available = dag.columns(node).names
    return [name for name in named if name in available]


def _with_origin(
    layout: RunLayout, reader: RowReader, node: str, part: int, dropped: pa.Table
) -> pa.Table:
    """Poisoned rows with the row number, URL and pointer they had."""
    above = layout.dag.row_node(node)
    pointer = _there(layout.dag, node, ["pointer"])
    rows = reader.leaving(above, part, ["uid", "row", "url", *pointer])
    rows = rows.take(pc.index_in(dropped["uid"], rows["uid"]))
    for name in ("row", "url"):
        index = dropped.schema.get_field_index(name)
        dropped = dropped.set_column(index, dropped.schema.field(index), rows[name])
    for name in pointer:
        dropped = dropped.append_column(name, rows[name])
    return dropped


def _fate(table: pa.Table, verdict: str, node: str) -> pa.Table:
    table = table.append_column("verdict", pa.array([verdict] * len(table), pa.string()))
    return table.append_column("node", pa.array([node] * len(table), pa.string()))


def paths(table: pa.Table) -> pa.ChunkedArray:
    """Where the bytes of rows lie, as a person would write it; null for rows without a pointer."""
    return pc.replace_substring_regex(table["pointer"], r"^(file|tarz?|warcz?|parquet):", "")


def _fill(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`; those it lacks are null."""
    columns: list[pa.Array | pa.ChunkedArray] = []
    if "pointer" in table.column_names:
        table = table.append_column("path", paths(table))
    for column in schema:
        if column.name in table.column_names:
            columns.append(table[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(len(table), column.type))
    return pa.table(columns, schema=schema)


def _first_fate(table: pa.Table) -> pa.Table:
    """A row that was poison to two parallel nodes is written once, at the first."""
    keys = list(zip(table["uid"].to_pylist(), table["row"].to_pylist(), strict=True))
    if len(set(keys)) == len(keys):
        return table
    seen: set[tuple[str, int]] = set()
    first = [not (key in seen or seen.add(key)) for key in keys]  # type: ignore[func-returns-value]
    return table.filter(pa.array(first))
