"""Arrays of all parts are joined in order, and their rows found by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace

from gristmill.pipelines.dedup.part_arrays import NO_DIGESTS, NO_NUMBERS, PartArrays, PartRows


@pytest.fixture
def saved(tmp_path: Path) -> PartArrays:
    workspace = MemoryWorkspace([pa.table({"x": [0]})] * 3, tmp_path)
    arrays = PartArrays(workspace, "facts")
    for part, count in enumerate((2, 0, 3)):
        numbers = np.arange(count, dtype=np.int64) + 10 * part
        arrays.save(part, area=numbers, vectors=np.stack([numbers, numbers], 1).astype(np.float16))
    return arrays


def test_parts_are_joined_in_order(saved: PartArrays) -> None:
    assert saved.joined("area", NO_NUMBERS).tolist() == [0, 1, 20, 21, 22]
    assert saved.starts("area").tolist() == [0, 2, 2, 5]
    assert saved.load(2, "area", np.int64).tolist() == [20, 21, 22]


def test_names_are_those_that_runs_of_before_have(saved: PartArrays) -> None:
    assert saved.workspace.load("facts/000002.area").tolist() == [20, 21, 22]
    saved.workspace.save("edges/000000", np.array([7]))
    assert PartArrays(saved.workspace, "edges", 1).joined("", NO_NUMBERS).tolist() == [7]


def test_nothing_is_of_the_right_kind(saved: PartArrays) -> None:
    joined = PartArrays(saved.workspace, "none", 0).joined("ids", NO_DIGESTS)
    assert joined.shape == (0, 2) and joined.dtype == np.uint64


def test_rows_are_found_by_their_number_over_all_parts(saved: PartArrays) -> None:
    rows = PartRows(saved.starts("area"), saved.each("vectors", np.float16))
    assert rows.take(np.array([4, 0, 2])).tolist() == [[22, 22], [0, 0], [20, 20]]
    assert rows.take(np.array([4, 0])).dtype == np.float16
    assert rows.one(1).tolist() == [1, 1] and rows.one(2).tolist() == [20, 20]
