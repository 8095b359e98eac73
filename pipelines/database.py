"""DuckDB as stages and the engine use it: in memory, spilling where it is told to.

The one place where values meet SQL: settings are handed over as they are, texts and names are
quoted, so that an apostrophe in a path or a caption is an apostrophe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
import pyarrow as pa


@contextlib.contextmanager
def open_database(
    scratch: str | None = None, *, memory: str = "1GB", is_locked: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory on two threads. Beyond `memory` it spills into the folder `scratch`.

    `is_locked`: what it is asked can reach neither files nor the network, nor change a setting.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": 2,
        "memory_limit": memory,
        # Who wants an order asks for it.
        "preserve_insertion_order": False,
    }
    if scratch is not None:
        settings["temp_directory"] = scratch
    with duckdb.connect(":memory:", config=settings) as database:
        if is_locked:
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
        yield database


def read_stream(
    database: duckdb.DuckDBPyConnection, name: str, stream: pa.RecordBatchReader, sql: str
) -> None:
    """Run `sql`, which reads the rows of `stream` as the table `name`.

    What reading them raises is raised here: DuckDB makes a text of it, from which nobody can tell a
    store that fails from a stage that is wrong.
    """
    raised: list[Exception] = []

    def read() -> Iterator[pa.RecordBatch]:
        try:
            yield from stream
        except Exception as error:
            raised.append(error)
            raise

    database.register(name, pa.RecordBatchReader.from_batches(stream.schema, read()))
    try:
        database.execute(sql)
    except duckdb.Error as error:
        if raised:
            raise raised[0] from error
        raise
    finally:
        database.unregister(name)


def sql_text(value: str) -> str:
    """A text as a literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """The name of a column or table, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
