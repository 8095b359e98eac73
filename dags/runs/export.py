"""Columns of a run, put together for other programs: scores out, labels joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Write, missing_column


def read_columns(out: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """The named columns of a finished run, part by part, with `uid` first.

    Rows are those that enter the first Keep node; of a run without one, those that enter the
    product. Raises `GraphError`, naming the nearest, for a column that the run does not have.
    """
    layout = open_run(out)
    parts = finished_parts(layout)
    node = _last_with_all(layout)
    with where_it_ran(layout):
        available = layout.dag.columns(node).names
    for name in names:
        if name not in available:
            raise GraphError(missing_column(out, name, available))
    reader = RowReader(layout, many=True)
    for part in range(parts):
        with where_it_ran(layout):
            table = reader.entering(node, part, list(dict.fromkeys(("uid", *names))))
        yield table


def _last_with_all(layout: RunLayout) -> str:
    for kind in (Keep, Write):
        for name in layout.dag.order():
            if isinstance(layout.dag.stage(name), kind):
                return name
    raise GraphError(f"{layout.dag.name} has neither a Keep nor a Write node")


def labelled_embeddings(
    labels: pa.Table, label: str, out: str, embedding: str
) -> tuple[pa.Array, list[float]]:
    """Embeddings of a run for the uids of a table of labels, and their labels.

    Raises `ConfigurationError` if the table lacks a column, or no uid is in the run.
    """
    for name in ("uid", label):
        if name not in labels.column_names:
            raise ConfigurationError(
                f"the labels have no column {name!r}; there are: {', '.join(labels.column_names)}"
            )
    found, values = [], []
    for table in read_columns(out, [embedding]):
        index = pc.index_in(labels["uid"], table["uid"].combine_chunks())
        there = pc.is_valid(index)
        found.append(table[embedding].take(index.filter(there)))
        values += labels[label].cast(pa.float64()).filter(there).to_pylist()
    if not values:
        raise ConfigurationError(f"none of the {len(labels)} uids of the labels is in {out}")
    return pa.chunked_array([c for piece in found for c in piece.chunks]).combine_chunks(), values
