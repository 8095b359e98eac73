"""Paths, texts and names with apostrophes are what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from gristmill.errors import StorageError
from gristmill.pipelines.database import open_database, read_stream, sql_name, sql_text


def test_a_folder_with_an_apostrophe(tmp_path: Path) -> None:
    folder = str(tmp_path / "o'clock")
    with open_database(folder) as database:
        assert database.sql("SELECT current_setting('temp_directory')").fetchall() == [(folder,)]


def test_texts_and_names_are_quoted() -> None:
    with open_database() as database:
        text, name = sql_text("it's"), sql_name('a "b"')
        found = database.sql(f"SELECT {text} AS {name}")
        assert (found.columns, found.fetchall()) == (['a "b"'], [("it's",)])


def test_a_locked_database_reaches_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    with open_database(is_locked=True) as database, pytest.raises(duckdb.Error):
        database.sql(f"SELECT * FROM {sql_text(str(tmp_path / 'x.csv'))}").fetchall()


def stream(batches: int, error: Exception | None = None) -> pa.RecordBatchReader:
    def read() -> Iterator[pa.RecordBatch]:
        for i in range(batches):
            yield pa.record_batch({"x": [i]})
        if error is not None:
            raise error

    return pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), read())


MADE = "CREATE TEMP TABLE made AS SELECT x FROM entering"


def test_a_stream_is_read_and_forgotten() -> None:
    with open_database(is_locked=True) as database:
        read_stream(database, "entering", stream(3), MADE)
        assert database.sql("SELECT sum(x) FROM made").fetchall() == [(3,)]
        with pytest.raises(duckdb.CatalogException, match="entering"):
            database.sql("SELECT * FROM entering").fetchall()


@pytest.mark.parametrize("batches", [0, 2])
def test_what_reading_a_stream_raises_stays_what_it_is(batches: int) -> None:
    away = StorageError("the store is away")
    with open_database() as database:
        with pytest.raises(StorageError, match="the store is away"):
            read_stream(database, "entering", stream(batches, away), MADE)
        # A fault of the query stays one.
        with pytest.raises(duckdb.BinderException):
            read_stream(database, "entering", stream(1), MADE.replace("x FROM", "y FROM"))
