"""The run folder: a part is there when its record is; one writer at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import lay, put, toy_dag

from gristmill.dags.engine.run_folder import PartStore
from gristmill.errors import RunError
from gristmill.pipelines.storage import Folder

TABLE = pa.table({"uid": ["a", "b"], "n": [1, 2]})


def test_a_part_that_must_be_there_and_is_not(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"part 5 of .* is not committed; run again"):
        PartStore(Folder(str(tmp_path))).need(5)


def test_parts_are_told_from_whatever_else_lies_there(tmp_path: Path) -> None:
    for name in ("000000.json", "000012.json", "parts.json", "000001-ab.rows.parquet", "x"):
        (tmp_path / name).write_text("{}")
    store = PartStore(Folder(str(tmp_path)))
    assert store.parts_of(store.folder.names()) == [0, 12]
    # None of them can be believed, and no file is touched that is no record.
    assert store.parts() == [] and store.take_back_unsound() == ({}, [0, 12])
    assert store.folder.names() == ["000001-ab.rows.parquet", "parts.json", "x"]


def test_a_keep_node_says_what_lies_above_it_too(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag())
    for node in ("draw", "keep"):
        put(layout, node, 0, TABLE)
    before = {node: layout.digest(node, 0) for node in ("draw", "keep")}
    put(layout, "draw", 0, TABLE.slice(1))
    assert layout.digest("draw", 0) != before["draw"]
    assert layout.digest("keep", 0) != before["keep"]
    assert layout.node_folder("keep").startswith("nodes/keep-")
