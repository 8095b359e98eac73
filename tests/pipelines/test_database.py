"""Paths, texts and names with apostrophes are what they are."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from gristmill.pipelines.database import open_database, sql_name, sql_text


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
