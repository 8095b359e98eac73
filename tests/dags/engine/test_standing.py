"""Which rows came to be in the product: kept, gone into what was kept, or what that was made of."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from toy_run import advance, lay, put, toy_dag

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.standing import end_of, kept_uids


def test_rows_that_were_kept_less_those_that_were_lost(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout)
    reader = RowReader(layout)
    assert end_of(layout.dag, "keep") is None and end_of(layout.dag, "draw") == "keep"
    kept = set(reader.leaving("keep", 1, ["uid"])["uid"].to_pylist())
    assert kept and kept_uids(layout.dag, reader, 1, {}) == kept
    lost = sorted(kept)[0]
    losses = {"shards": pa.table({"uid": [lost]})}
    assert kept_uids(layout.dag, reader, 1, losses) == kept - {lost}


def test_what_went_into_a_row_and_what_it_was_made_of(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag())
    rows = {
        "uid": ["made", "merged", "other", "alone"],
        "status": ["success", "merged", "merged", "success"],
        "parent_uid": ["video", "made", "nowhere", None],
    }
    put(layout, "draw", 0, pa.table(rows))
    for node in ("bright", "length"):
        put(layout, node, 0, pa.table({"uid": rows["uid"]}))
    verdicts = {
        "uid": ["made", "alone"],
        "verdict": ["kept", "merged"],
        "value": [None, "made"],
    }
    put(layout, "keep", 0, pa.table(verdicts))
    found = kept_uids(layout.dag, RowReader(layout), 0, {})
    assert found == {"made", "merged", "video", "alone"}
