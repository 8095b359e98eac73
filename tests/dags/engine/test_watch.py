"""Watching a run: parts are told as they come, whoever did them; a disk that fills stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import advance, lay

from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.watch import CommitWatch, ResourceWatch
from gristmill.errors import DiskFullError
from gristmill.pipelines.storage import Folder


def test_parts_are_told_once_each_with_their_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw")
    draws = layout.store("draw")
    before = {0: str(draws.need(0).files["rows"]["name"])}
    progress = Progress()
    for node in ("draw", "length"):
        progress.start(node, 3, 20)
    watch = CommitWatch(layout, ["draw", "length"], {"draw": before, "length": {}}, progress)
    # By somebody else.
    parts = advance(lay(tmp_path), "length")
    for part in range(parts):
        watch.done(part)
    watch.sweep()
    watch.sweep()
    for node in ("draw", "length"):
        progress.finish(node)
    lines = capsys.readouterr().err.splitlines()
    assert "draw: done parts=3/3" in lines[-2] and "reused=1" in lines[-2]
    assert lines[-2].endswith("rows=18 kept=17")
    assert "length: done parts=3/3" in lines[-1] and lines[-1].endswith("rows=17 kept=17")


def test_memory_is_measured_and_a_full_disk_refused(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with ResourceWatch(folder, 0.0) as watch:
        watch.check()
    assert watch.peak_mb > 10
    with pytest.raises(DiskFullError, match=r"GB free .* make room and run the same command again"):
        ResourceWatch(folder, 1e9).__enter__()


def test_a_store_has_no_disk_to_fill() -> None:
    ResourceWatch(Folder("memory://watch-test"), 1e9).check()
