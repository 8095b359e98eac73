"""What no node of a run uses goes; what is used stays, byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_world import build_here, contents

from gristmill.dags.runs.clean import clean_run
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import RunError


def litter(out: Path) -> int:
    """What an older run, and one that was killed, leave behind. Returns its bytes."""
    (light,) = (out / "nodes").glob("light-*")
    stale = out / "nodes" / "light-0123456789ab"
    files = {
        stale / "000000.json": 10,
        stale / "saved" / "x.npy": 200,
        light / "000001-deadbeef.rows.parquet": 3_000,
        out / "scratch" / "deep" / "spill.tmp": 40_000,
    }
    for path, size in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return sum(files.values())


def test_a_sound_run_has_nothing_to_free(out: Path) -> None:
    before = contents(out)
    assert clean_run(str(out)) == 0
    assert _but_lock(contents(out)) == _but_lock(before)


def test_left_over_files_go_and_what_is_used_stays(out: Path) -> None:
    before = contents(out)
    size = litter(out)
    dirty = contents(out)
    assert clean_run(str(out), dry_run=True) == size
    assert _but_lock(contents(out)) == _but_lock(dirty)
    assert clean_run(str(out)) == size
    assert _but_lock(contents(out)) == _but_lock(before)
    assert not (out / "nodes" / "light-0123456789ab").exists() and verify_run(str(out)) == []
    summary = build_here(choose(str(out), {}))
    assert all(node["reused"] == node["parts"] for node in summary["nodes"].values())


def test_another_selection_is_freed_until_it_is_built(out: Path) -> None:
    choice = choose(str(out), {"rules": {"dim": "brightness < 0.5"}})
    tried, built = (out / choice.layout.node_folder("keep"), next((out / "nodes").glob("shards-*")))
    assert tried.exists()
    assert clean_run(str(out)) > 0 and not tried.exists() and built.exists()
    build_here(choose(str(out), {"rules": {"dim": "brightness < 0.5"}}))
    assert clean_run(str(out)) > 0 and tried.exists() and not built.exists()
    assert len(list((out / "nodes").iterdir())) == 5 and verify_run(str(out)) == []


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "mine.txt").write_text("dear")
    with pytest.raises(RunError, match="holds no run"):
        clean_run(str(tmp_path))
    assert contents(tmp_path) == {"nodes/mine.txt": b"dear"}


def _but_lock(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "run.lock"}
