"""A file that a record names is read as it was written, or said to be wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import xxhash

from gristmill.dags.engine.checked import copy_checked, read_checked, what_is_wrong
from gristmill.dags.engine.records import FileRecord
from gristmill.errors import StorageError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.storage import Folder

DATA = b"as it was written"
FILE: FileRecord = {"name": "x", "size": len(DATA), "xxh3": xxhash.xxh3_128_hexdigest(DATA)}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "is missing"),
        (DATA[:5], "has 5 bytes of the 17"),
        (DATA.replace(b"a", b"b"), "has another digest"),
    ],
)
def test_what_is_gone_cut_or_changed_is_said(
    data: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    folder = Folder(str(tmp_path))
    if data is not None:
        folder.write_bytes("x", data)
    assert said in what_is_wrong(folder, FILE)
    with pytest.raises(StorageError, match=f"{said}.*gristmill repair"):
        read_checked(folder, FILE)
    with pytest.raises(StorageError, match=said):
        copy_checked(folder, FILE, str(tmp_path / "copy"))


def test_a_file_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    back = threading.Timer(0.1, folder.write_bytes, ("x", DATA))
    back.start()
    assert read_checked(folder, FILE) == DATA
    back.join()
    copy_checked(folder, FILE, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == DATA and what_is_wrong(folder, FILE) == ""
