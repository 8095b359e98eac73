"""Storage: whole or not at all, on a disk and on any other fsspec file system."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from gristmill.errors import StorageError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.storage import Folder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "folder"))
    return Folder(f"memory://storage-test/{tmp_path.name}")


def test_write_read_list_remove(folder: Folder) -> None:
    folder.write_bytes("a/b.txt", b"hello")
    folder.write_json("c.json", {"x": "é"})
    assert folder.read_bytes("a/b.txt") == b"hello"
    assert folder.read_range("a/b.txt", 1, 3) == b"ell"
    assert folder.read_json("c.json") == {"x": "é"}
    assert folder.names() == ["a", "c.json"] and folder.walk() == ["a/b.txt", "c.json"]
    assert folder.size("a/b.txt") == 5 and folder.exists("a")
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == ["c.json"] and folder.names("nowhere") == []


def test_what_fails_half_way_is_not_there(folder: Folder) -> None:
    def fail() -> None:
        with folder.output("x") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert folder.walk() == []


def test_the_same_table_is_the_same_bytes_and_comes_back(folder: Folder) -> None:
    table = pa.table({"a": [1, None], "b": ["x", "y"]})
    folder.write_table("1.parquet", table)
    folder.write_table("2.parquet", table)
    assert folder.read_bytes("1.parquet") == folder.read_bytes("2.parquet")
    assert folder.read_table("1.parquet").equals(table)
    assert folder.read_table("1.parquet", ["b"]).column_names == ["b"]


def test_a_folder_travels_by_pickle(folder: Folder) -> None:
    folder.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).read_bytes("x") == b"1"
    assert folder.sub("y").url.endswith("/y")


def test_a_folder_that_cannot_be_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    folder = Folder(str(tmp_path))
    folder.write_bytes("a/b.txt", b"hello")

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(5, "the storage fails")

    monkeypatch.setattr(type(folder.fs), "ls", fails)
    monkeypatch.setattr(type(folder.fs), "info", fails)
    monkeypatch.setattr(os, "scandir", fails)
    asked = (folder.walk, folder.names, folder.sizes, lambda: folder.exists("a/b.txt"))
    for ask in asked:
        with pytest.raises(StorageError, match="the storage fails"):
            ask()
    monkeypatch.undo()
    assert folder.walk() == ["a/b.txt"] and folder.walk("nowhere") == []


def test_a_range_beyond_the_end_is_no_short_answer(folder: Folder) -> None:
    folder.write_bytes("x", b"12345")
    with pytest.raises(StorageError, match="3 of 9 bytes from 2 of x"):
        folder.read_range("x", 2, 9)
