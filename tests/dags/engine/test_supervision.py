"""Work that is watched: here for a debugger, in a child otherwise, started again when it dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_run import HERE, advance, lay, toy_dag
from toy_stages import ToyLength

from gristmill.dags.engine.supervision import Supervised, Supervision
from gristmill.errors import WorkerError
from gristmill.pipelines.child import ChildDied

CHILD = Supervision(row_deadline_s=30.0)


def test_here_the_worker_is_made_once_and_let_go(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw")
    worker = Supervised(layout, ("bright", "length"), HERE)
    assert worker.call_readonly("size", 0) == 7 and worker.peak_mb() == 0.0
    inside = worker._worker()
    assert worker.call("size", 1, deadline_s=1.0) == 7 and worker._worker() is inside
    assert list(worker.stream("score_each", 0, [(0, "length")], silence_s=1.0)) == [(0, None)]
    worker.close()
    assert worker._worker() is not inside


def test_a_child_that_dies_is_started_again_and_what_runs_no_stage_asked_again(
    tmp_path: Path,
) -> None:
    layout = lay(tmp_path, toy_dag(length=ToyLength(kills=("picture 1",), raises=("picture 2",))))
    advance(layout, "rows", "draw")
    worker = Supervised(layout, ("length",), CHILD)
    try:
        assert worker.call_readonly("size", 0) == 7
        child = worker._child
        assert child is not None and child.pid is not None and child.pid != os.getpid()
        assert worker.peak_mb() > 10
        with pytest.raises(WorkerError, match="cannot measure this"):
            worker.call("score_block", 0, [2], {}, deadline_s=30.0)
        with pytest.raises(ChildDied, match="exited with status 7"):
            worker.call("score_block", 0, [1], {}, deadline_s=30.0)
        assert worker.peak_mb() == 0.0
        assert len(worker.call_readonly("uids", 0)) == 7
    finally:
        worker.close()
    assert child.pid is None
