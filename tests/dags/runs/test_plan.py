"""What would run, and what it would need, without doing any of it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from run_world import ROWS, Light, contents, small_dag

from gristmill.dags.engine.run_folder import PartStore
from gristmill.dags.runs import plan
from gristmill.dags.runs.plan import (
    Plan,
    make_plan,
    open_run,
    render_plan,
    run_status,
    watch_status,
)
from gristmill.errors import MissingWeightsError, RunError, SourceError
from gristmill.pipelines.storage import Folder


def working(plan: Plan) -> list[str]:
    return [node.node for node in plan.nodes if node.has_work]


@pytest.fixture
def there(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder, from the folder it was started in."""
    monkeypatch.chdir(out.parent)
    return out


def test_nothing_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where it ran: a source is known by its files' places and times.
    monkeypatch.chdir(home)
    before = contents(home / "run")
    plan = make_plan(small_dag(), "run")
    assert working(plan) == [] and plan.notes[0] == "nothing to do"
    assert [(node.done, node.parts) for node in plan.nodes] == [(3, 3)] * 5
    assert not any(note.startswith("needed") for note in plan.notes)
    assert contents(home / "run") == before


def test_a_changed_rule_makes_keep_and_shards_anew_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    plan = make_plan(small_dag({"dim": "brightness < 0.5"}), "run")
    assert working(plan) == ["keep", "shards"]
    assert plan.notes[0] == "2 of 5 nodes have work to do"
    # A rule that cannot be meant is said before it is asked.
    odd = make_plan(small_dag({"dim": "brightness < 20"}), "run")
    assert any(note.startswith("warning: ") and "0..1" in note for note in odd.notes)


def test_what_is_needed_where_nothing_is_there(there: Path) -> None:
    plan = make_plan(small_dag(), "new")
    assert working(plan) == ["source", "download", "light", "keep", "shards"]
    assert "needed by light: light.txt" in plan.notes
    (needed,) = (note for note in plan.notes if note.startswith("needed: "))
    assert "CPUs" in needed and "GiB for one worker of each" in needed
    assert not (there.parent / "new").exists()


def test_what_cannot_work_is_said_at_once(there: Path) -> None:
    small = small_dag()
    gone = small.replace("light", dataclasses.replace(Light(), path="gone.txt"))
    with pytest.raises(MissingWeightsError, match=r"gone\.txt"):
        make_plan(gone, "new")
    source = dataclasses.replace(small.stage("source"), path="nowhere")  # type: ignore[call-arg]
    with pytest.raises(SourceError, match="nowhere"):
        make_plan(small.replace("source", source), "new")


def test_how_far_a_run_is(there: Path) -> None:
    assert working(run_status(str(there))) == []
    (light,) = (there / "nodes").glob("light-*")
    PartStore(Folder(str(light))).drop([1])
    status = run_status(str(there))
    assert working(status) == ["light"]
    assert [node.done for node in status.nodes if node.node == "light"] == [2]
    assert any(note.startswith(f"{ROWS} rows; ") for note in status.notes)
    with pytest.raises(RunError, match="is the path right"):
        open_run(str(there.parent))


def test_a_table_of_eighty_columns_breaks_no_fingerprint(home: Path) -> None:
    from rich.console import Console

    console = Console(width=80)
    plan = run_status(str(home / "run"))
    with console.capture() as said:
        console.print(render_plan(plan))
    assert all(node.fingerprint[:8] in said.get() for node in plan.nodes)
    assert "nothing to do" in said.get()


def test_a_run_is_watched_until_nothing_is_left(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_status(str(there))
    begun = [dataclasses.replace(node, done=0) for node in whole.nodes]
    looks = [dataclasses.replace(whole, nodes=begun, notes=["one"])] * 3 + [whole]
    waited: list[float] = []
    monkeypatch.setattr(plan, "run_status", lambda _: looks[len(waited)])
    monkeypatch.setattr(plan.time, "sleep", waited.append)
    console = Console(file=io.StringIO(), width=120)
    watch_status(str(there), 7.0, console)
    assert waited == [7.0] * 3
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("0/3") == 5 and shown.count("3/3") == 5, "what has not changed says nothing"
