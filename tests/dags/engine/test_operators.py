"""Operators: what they need, what counts as done, and that a committed task is not done again."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import HERE, advance, lay, put, toy_dag
from toy_stages import ToyBrightness, ToyDraw, ToyLength

from gristmill.dags.engine.operators import (
    PartOperator,
    PhaseOperator,
    count_values,
    failure_reasons,
)
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace


@dataclass(frozen=True, kw_only=True)
class HeavyLength(ToyLength):
    """Occupies more than its sibling."""

    def needs(self) -> Needs:
        return Needs(cpus=3.0, gpus=0.5, memory_gb=4.0)


@dataclass(frozen=True, kw_only=True)
class Rank(Global):
    """Saves each part's sizes, then numbers the rows."""

    with_uid: bool = False

    def reads(self) -> tuple[str, ...]:
        return ("length",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("rank", pa.int32())])

    def phases(self) -> tuple[Phase, ...]:
        def work(workspace: Workspace, part: int) -> None:
            workspace.save_table(f"rows-{part}", workspace.rows(part, ["length"]))

        return (Phase(name="gather", count=lambda workspace: workspace.parts, work=work),)

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        before = sum(len(workspace.load_table(f"rows-{other}")) for other in range(part))
        rows = workspace.rows(part, ["uid"])
        ranks = pa.array(range(before, before + len(rows)), pa.int32())
        table = pa.table([ranks], schema=self.writes())
        if self.with_uid:
            # In another order than the rows came in: the uid says whose it is.
            backwards = pa.array(range(len(rows))[::-1], pa.int64())
            table = table.add_column(0, "uid", rows["uid"]).take(backwards)
        return table


def ranked(folder: Path, stage: Rank) -> RunLayout:
    layout = lay(folder, toy_dag(rank=stage))
    advance(layout, "rows", "draw", "bright", "length", "keep")
    return layout


def test_one_worker_for_several_nodes_has_room_for_all(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(length=HeavyLength()))
    operator = PartOperator(layout, ("bright", "length"), HERE)
    assert ToyBrightness().needs().memory_gb == 1.0, "of the process that both share"
    assert operator.needs() == Needs(cpus=3.0, gpus=0.5, memory_gb=4.0)


def test_a_part_is_fresh_until_what_it_was_built_on_changes(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw", "bright")
    operator = PartOperator(layout, ("bright",), HERE)
    record = operator.fresh("bright", 0)
    assert record is not None
    assert record.inputs == layout.input_digests("bright", 0) == {"draw": layout.digest("draw", 0)}
    put(layout, "draw", 0, pa.table({"uid": ["another"]}))
    assert operator.fresh("bright", 0) is None
    assert operator.fresh("bright", 1) is not None and operator.fresh("bright", 99) is None


def test_an_operator_travels_without_its_worker(tmp_path: Path) -> None:
    operator = PartOperator(lay(tmp_path), ("draw",), HERE)
    assert operator.worker is operator.worker
    other = pickle.loads(pickle.dumps(operator))
    assert (other.nodes, other.layout.url) == (("draw",), str(tmp_path))
    assert other.worker is not operator.worker
    operator.close()
    operator.close()


def test_a_task_of_a_phase_is_done_once(tmp_path: Path) -> None:
    layout = ranked(tmp_path, Rank())
    operator = PhaseOperator(layout, "rank", "gather", 3)
    assert operator.count() == 3 and operator.needs() == Rank().needs()
    assert [operator(task) for task in (1, 0, 2, 1)] == [False, False, False, True]
    folder = layout.folder.sub(layout.node_folder("rank"))
    assert folder.names("phase-gather") == ["000000.json", "000001.json", "000002.json"]
    assert folder.read_json("phase-gather/000000.json")["seconds"] > 0


@pytest.mark.parametrize("with_uid", [False, True])
def test_columns_of_a_global_node_are_committed_under_their_uids(
    with_uid: bool, tmp_path: Path
) -> None:
    layout = ranked(tmp_path, Rank(with_uid=with_uid))
    advance(layout, "rank")
    found: dict[str, int] = {}
    for part in range(3):
        record = layout.store("rank").need(part)
        assert record.rows_in == record.rows_out and record.inputs.keys() == {"keep"}
        for row in layout.store("rank").table(record).to_pylist():
            found[row["uid"]] = row["rank"]
    assert sorted(found.values()) == list(range(len(found))) and found
    rows = layout.store("rank").need(2).files["rows"]["name"]
    names = [name for name in layout.store("rank").folder.names() if name.startswith("0")]
    assert names == [rows, "000000.jsonl"], "of all parts of a task"


def test_verdicts_are_counted_by_reason(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=ToyDraw()))
    advance(layout)
    records = [layout.store("keep").need(part) for part in range(3)]
    assert sum(record.rows_in for record in records) == 18
    assert sum(record.rows_out for record in records) == 9
    assert records[0].dropped == {"short": 8} and records[2].dropped == {}


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        ("failed_to_download", "http 404", "http 404"),
        ("failed_to_decode", None, "failed_to_decode"),
        ("failed_to_decode", "", "failed_to_decode"),
        # What the machine said of its death is not a reason that can be counted.
        ("poisoned", "exited with status 7", "poisoned"),
    ],
)
def test_the_reason_of_a_failure(status: str, error: str | None, reason: str) -> None:
    table = pa.table({"status": [status], "error": pa.array([error], pa.string())})
    assert failure_reasons(table) == [reason]


def test_values_are_counted_in_the_order_of_their_names() -> None:
    assert list(count_values(["b", "a", "b"]).items()) == [("a", 1), ("b", 2)]
    assert count_values([]) == {}
