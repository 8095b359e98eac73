"""A list that is added to a finished run: old shards as they were, new rows in new ones, what is
kept already wins."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from run_world import KEPT, ROWS, add_here, captions, contents, draw, make_home, wide_dag

from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.storage import Folder


def ledger(out: Path) -> dict[str, dict[str, object]]:
    """Name of the picture -> its line."""
    folder = Folder(str(out / "ledger"))
    rows = pa.concat_tables([folder.read_table(name) for name in folder.names()]).to_pylist()
    return {str(row["path"]).rpartition("/")[2]: row for row in rows}


def test_a_list_is_added(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, wide_dag())
    before = contents(home / "run")
    old = ledger(home / "run")
    draw(home / "more", range(20, 25))
    # A larger copy of number 5, and one of number 1, which was too dark.
    draw(home / "more", (25, 26), as_of=20, side=40)
    draw(home / "more", (31,), as_of=30)
    added = add_here(home, "more")
    assert added.summary is not None and added.summary["rows_in"] == ROWS + 8
    after = contents(home / "run")
    for name, data in before.items():
        if name.startswith(("shards/train", "table/train", "table/val")) and "/0" in name:
            assert after[name] == data, name
    assert captions(home / "run") == KEPT | {f"number {i}" for i in (*range(20, 25), 31)}
    now = ledger(home / "run")
    assert {path: now[path] for path in old} == old
    line = now["25.png"]
    assert line["reason"] == "copy", line
    assert verify_run(str(home / "run")) == []
