"""Arrays of all parts are joined in order, and their rows found by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace
from numpy.typing import NDArray

from gristmill.pipelines.dedup.part_arrays import (
    NO_DIGESTS,
    NO_NUMBERS,
    PartArrays,
    PartRows,
    rows_of_parts,
)


@pytest.fixture
def saved(tmp_path: Path) -> PartArrays:
    workspace = MemoryWorkspace([pa.table({"x": [0]})] * 3, tmp_path)
    arrays = PartArrays(workspace, "facts")
    for part, count in enumerate((2, 0, 3)):
        numbers = np.arange(count, dtype=np.int64) + 10 * part
        arrays.save(part, area=numbers, vectors=np.stack([numbers, numbers], 1).astype(np.float16))
    return arrays


def test_parts_are_joined_in_order(saved: PartArrays) -> None:
    joined = saved.join(area=NO_NUMBERS, vectors=np.zeros((0, 2), np.float16))
    assert joined["area"].tolist() == [0, 1, 20, 21, 22]
    assert joined["vectors"].dtype == np.float16 and joined["vectors"].shape == (5, 2)
    assert joined.starts["area"].tolist() == [0, 2, 2, 5]
    assert saved.load(2, "area", np.int64).tolist() == [20, 21, 22]
    assert [array.tolist() for array in saved.each("area", np.int64)] == [[0, 1], [], [20, 21, 22]]


def test_rows_are_told_their_thing_by_its_number_over_all_parts(tmp_path: Path) -> None:
    arrays = PartArrays(MemoryWorkspace([pa.table({"x": [0]})] * 3, tmp_path), "images")
    for part, (rows, things) in enumerate((([0, 1, 0], 2), ([], 0), ([-1, 0], 1))):
        arrays.save(part, row=np.array(rows, np.int64), ids=np.zeros((things, 2), np.uint64))
    joined = arrays.join(row=NO_NUMBERS, ids=NO_DIGESTS)
    assert joined.numbered("row", "ids").tolist() == [0, 1, 0, -1, 2]
    facts = rows_of_parts(joined.starts["row"], np.array([0, 1, 0, 2, 2]), size=np.array([5, 6, 7]))
    assert [part["size"].tolist() for part in facts] == [[5, 6, 5], [], [7, 7]]


def test_nothing_is_of_the_right_kind(saved: PartArrays) -> None:
    joined = PartArrays(saved.workspace, "none", 0).join(ids=NO_DIGESTS)
    assert joined["ids"].shape == (0, 2) and joined["ids"].dtype == np.uint64


def test_rows_are_found_by_their_number_and_only_their_parts_are_read(saved: PartArrays) -> None:
    starts = saved.join(area=NO_NUMBERS).starts["area"]
    rows = saved.rows(starts, "vectors", np.float16)
    assert rows.take(np.array([4, 0, 2])).tolist() == [[22, 22], [0, 0], [20, 20]]
    assert rows.take(np.array([4, 0])).dtype == np.float16
    assert rows.take(NO_NUMBERS).shape == (0, 2)
    assert rows.one(1).tolist() == [1, 1] and rows.one(2).tolist() == [20, 20]
    read: list[int] = []

    def load(part: int) -> NDArray[np.float16]:
        read.append(part)
        return saved.load(part, "vectors", np.float16)

    assert PartRows(starts, load).take(np.array([4, 3])).tolist() == [[22, 22], [21, 21]]
    assert read == [2]
