"""A part under way: nothing of it is seen before its commit, and others do not harm it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gristmill.dags.engine.attempt import record_name
from gristmill.dags.engine.run_folder import BLOBS, ROWS, PartStore
from gristmill.pipelines.storage import Folder

TABLE = pa.table({"uid": ["a", "b"], "n": [1, 2]})


def test_nothing_of_a_part_is_seen_before_its_commit_and_nothing_left_without(
    tmp_path: Path,
) -> None:
    store = PartStore(Folder(str(tmp_path)))
    with pytest.raises(ZeroDivisionError), store.attempt(3) as attempt:
        attempt.write_table(ROWS, TABLE)
        assert store.record(3) is None and store.parts() == []
        raise ZeroDivisionError
    assert store.folder.names() == []
    with store.attempt(3) as attempt:
        attempt.write_table(ROWS, TABLE)
        attempt.write_array("vectors", np.eye(2, dtype=np.float16))
        with attempt.output(BLOBS, "bin") as file:
            file.write(b"12345")
        written = attempt.commit(rows_in=2, rows_out=2)
    record = store.need(3)
    assert record == written and store.parts() == [3]
    assert store.table(record).equals(TABLE)
    assert store.table(record, columns=["n"]).column_names == ["n"]
    assert record.files[BLOBS]["size"] == 5
    assert (np.load(tmp_path / record.files["vectors"]["name"]) == np.eye(2)).all()


def test_two_attempts_do_not_harm_each_other(tmp_path: Path) -> None:
    store = PartStore(Folder(str(tmp_path)))
    with store.attempt(0) as one, store.attempt(0) as two:
        one.write_table(ROWS, TABLE)
        two.write_table(ROWS, TABLE.slice(1))
        one.commit()
        last = two.commit()
    assert store.need(0).files == last.files
    assert store.table(store.need(0)).equals(TABLE.slice(1))


def test_files_that_are_left_wait_for_a_record(tmp_path: Path) -> None:
    store = PartStore(Folder(str(tmp_path)))
    with store.attempt(7) as attempt:
        attempt.write_table(ROWS, TABLE)
        record = attempt.leave(rows_in=2, rows_out=2)
    assert store.folder.names() == [record.files[ROWS]["name"]] and store.record(7) is None
    # What lay there of a time before would stand above what is written now.
    with store.attempt(7) as attempt:
        attempt.commit()
    store.replace({7: record})
    assert record_name(7) not in store.folder.names()
    again = PartStore(store.folder)
    assert again.need(7) == record and again.table(record).equals(TABLE)
