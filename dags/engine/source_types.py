"""The types of columns of the source that are carried, where nobody said them: by its first rows,
the same wherever it is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa

from gristmill.dags.engine.read_parts import ask_source
from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.source_columns import SourceColumns, parse_columns
from gristmill.pipelines.stage import Read

# Rows that tell the types.
_FIRST_ROWS = 10_000


def with_source_columns(dag: Dag, texts: Sequence[str]) -> Dag:
    """`dag` with columns of the source carried, as `parse_columns` reads them, and their types.
    Raises `ConfigurationError` if no node of the Dag carries such."""
    nodes = [name for name, node in dag.nodes.items() if isinstance(node.stage, SourceColumns)]
    if not nodes:
        raise ConfigurationError(
            f"{dag.name} has no node that carries columns of the source; give it one of "
            "SourceColumns behind the source"
        )
    columns, types = parse_columns(texts)
    dag = dag.replace(nodes[0], SourceColumns(columns=columns, types=types))
    return ask_source(dag, partial(with_source_types, dag))


def with_source_types(dag: Dag) -> Dag:
    """`dag` with a type for each column of the source that a node carries. Reads the first rows of
    the source, only where a type is not known. Raises `SourceError` for a column that is not
    there."""
    for name, node in dag.nodes.items():
        stage = node.stage
        if isinstance(stage, SourceColumns) and not stage.is_settled():
            stage.check()
            source = dag.stage(dag.source)
            assert isinstance(source, Read)
            source.check()
            of_text = isinstance(source, Source) and source.is_of_text()
            where = getattr(source, "path", "") or type(source).__name__
            dag = dag.replace(name, stage.settled(_first_rows(source), where, of_text=of_text))
    return dag


def check_list(dag: Dag, source: Read) -> None:
    """Raise `SourceError` for a list that is to be added and lacks a column that the run carries,
    or has values of another type there: they would have no value, and rules would drop them."""
    for node in dag.nodes.values():
        stage = node.stage
        if not isinstance(stage, SourceColumns):
            continue
        where = getattr(source, "path", "") or type(source).__name__
        of_text = isinstance(source, Source) and source.is_of_text()
        bare = SourceColumns(columns=stage.columns)
        found = bare.settled(_first_rows(source), where, of_text=of_text).types
        for name, kind in stage.types.items():
            if kind not in (found[name], "string") and (kind, found[name]) != ("float64", "int64"):
                raise SourceError(
                    f"{where}: {stage.columns[name]!r} holds {found[name]}, and in this run it is "
                    f"{kind}; bring the list into that type"
                )


def _first_rows(source: Read) -> Iterator[pa.Table]:
    """The first rows, as few tables as have them."""
    if isinstance(source, Source):
        tables = source.first_tables()
    else:
        tables = itertools.chain.from_iterable(map(source.read, source.chunks()))
    left = _FIRST_ROWS
    for table in tables:
        yield table.slice(0, left)
        left -= len(table)
        if left <= 0:
            return
