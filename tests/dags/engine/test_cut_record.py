"""Into how many parts lists were cut: counted on from list to list, believed for these lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import advance
from two_lists import Later, added, two_lists

from gristmill.dags.engine.cut_record import (
    PARTS,
    chunks_of_source,
    first_part,
    first_row,
    parts_done,
    rows_of_source,
)
from gristmill.errors import RunError


def test_parts_and_rows_are_counted_on(tmp_path: Path) -> None:
    layout = two_lists(tmp_path)
    assert parts_done(layout) is None and parts_done(layout.before) == 3
    assert (first_part(layout), first_row(layout)) == (3, 20)
    with pytest.raises(RunError, match="not cut"):
        rows_of_source(layout)
    advance(layout, "rows")
    assert (parts_done(layout), rows_of_source(layout), chunks_of_source(layout)) == (5, 32, 1)
    assert (parts_done(layout.before), rows_of_source(layout.before)) == (3, 20)
    third = added(layout, Later(rows=1, chunk=1))
    assert parts_done(third) is None and first_part(third) == 5


def test_what_counts_on_from_another_run_is_not_believed(tmp_path: Path) -> None:
    layout = two_lists(tmp_path)
    advance(layout, "rows")
    other = added(layout.before, Later(rows=11, chunk=12))
    assert parts_done(other) is None
    layout.folder.remove(f"{layout.node_folder('rows')}/{PARTS}")
    assert parts_done(layout) is None
