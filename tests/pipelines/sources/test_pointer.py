"""Pointers into files that changed since they were listed: each gets its bytes or its reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import jpeg, write_tar

from gristmill.pipelines.sources.pointer import PointerError, read_pointers


def reasons(pointers: list[str]) -> list[str]:
    found = dict(read_pointers(pointers, 10**6))
    return [
        str(found[i]) if isinstance(found[i], PointerError) else "" for i in range(len(pointers))
    ]


@pytest.mark.parametrize("cut", [None, 300, 40])
def test_members_that_are_there_no_more(cut: int | None, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tgz", [(f"{i}.jpg", jpeg(i)) for i in range(2)], "w:gz")
    path.write_bytes(path.read_bytes()[:cut])
    found = reasons([f"tarz:{path}#{i}" for i in range(4)])
    assert found[2:] == ["truncated file"] * 2 and (cut is not None or found[:2] == ["", ""])
    path.write_bytes(b"\x1f\x8b" + bytes(99))
    assert reasons([f"tarz:{path}#0"]) == ["truncated file"]


def test_cells_that_are_there_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [jpeg(0), None]}), path)
    pointers = [f"parquet:{path}#{place}/image" for place in ("0/0", "0/1", "0/2", "7/0")]
    assert reasons(pointers) == ["", "no image", "truncated file", "truncated file"]
    assert reasons([f"parquet:{path}#0/0/other"]) == ["truncated file"]
    path.write_bytes(path.read_bytes()[:-20])
    assert reasons(pointers) == ["truncated file"] * 4
    path.unlink()
    assert reasons(pointers[:1]) == ["file not found"]
