"""The runner on Ray: every task once through all operators, and errors as they were raised."""

from __future__ import annotations

import functools
import os
import pickle
from pathlib import Path

import pytest
from toy_operators import Marking, fail_with

from gristmill.dags.engine import on_ray
from gristmill.dags.engine.held_operators import Parcel
from gristmill.dags.engine.on_ray import RayRunner, _do, _rebuild
from gristmill.errors import SourceError, WorkerError


def test_each_task_goes_through_all_operators_in_other_processes(
    tmp_path: Path, ray_session: None
) -> None:
    operators = [
        Marking(tmp_path / "held", holds_worker=True),
        Marking(tmp_path / "free", holds_worker=False),
    ]
    with RayRunner(workers=1) as runner:
        assert sorted(runner.run([3, 0, 5], operators)) == [0, 3, 5]
        assert list(runner.run([], operators)) == []
    for name in ("held", "free"):
        marks = [mark.name.split("-") for mark in (tmp_path / name).iterdir()]
        assert sorted(task for task, _ in marks) == ["0", "3", "5"]
        assert str(os.getpid()) not in {pid for _, pid in marks}


def test_an_operator_that_no_node_has_room_for_is_refused(
    tmp_path: Path, ray_session: None
) -> None:
    operator = Marking(tmp_path, holds_worker=True, gpus=1000.0)
    with pytest.raises(WorkerError, match="needs 1000 GPUs and this machine has"):
        list(RayRunner().run([0, 1], [operator]))


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [("ours", SourceError, "^task 1 has no source$"), ("foreign", WorkerError, "KeyError.*task 1")],
)
def test_errors_travel_as_data_and_are_raised_as_they_were(
    fails: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    operator = Marking(tmp_path, holds_worker=True, fails={1: fails})
    parcel = Parcel.of(None, pickle.dumps(operator))
    assert _do(parcel, 2) == ("", False)
    kind, said = _do(parcel, 1)
    with pytest.raises(error, match=message):
        raise _rebuild(kind, str(said))


def test_an_error_of_an_unknown_kind_is_one_of_ours() -> None:
    for kind in ("NoSuchError", "annotations", "GristmillError"):
        assert "said" in str(_rebuild(kind, "said"))


def test_a_ray_that_does_not_start_is_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(on_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray.ray, "init", slow)
    monkeypatch.setattr(on_ray.ray, "shutdown", lambda: None)
    with (
        pytest.raises(WorkerError, match=r"did not start .*timed out.*--runner local"),
        RayRunner(),
    ):
        pass


def test_a_step_over_all_parts_is_done_by_another_process(ray_session: None) -> None:
    runner = RayRunner()
    assert runner.apart(os.getpid) != os.getpid()
    with pytest.raises(SourceError, match=r"^gone$"):
        runner.apart(functools.partial(fail_with, SourceError("gone")))
