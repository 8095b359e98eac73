"""Score nodes on a part: blocks by the data alone, only what is missing, poison set aside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toy_run import HERE, advance, lay, toy_dag
from toy_stages import ToyLength

from gristmill.dags.engine.part_worker import BlockScores
from gristmill.dags.engine.run_folder import DROPPED_ROWS, RunLayout
from gristmill.dags.engine.saved import load_saved_array
from gristmill.dags.engine.score_operator import ScoreOperator, blocks
from gristmill.dags.engine.supervision import Supervision
from gristmill.errors import StageError, StorageError
from gristmill.pipelines.child import ChildDied
from gristmill.pipelines.patience import PATIENCE

BOTH = ("bright", "length")


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw")
    return layout


@pytest.mark.parametrize(
    ("cost", "found"),
    [
        ([], []),
        ([0] * 3, [[0, 1, 2]]),
        ([10] * 600, [[*range(256)], [*range(256, 512)], [*range(512, 600)]]),
        ([120 * 2**20, 120 * 2**20, 5, 120 * 2**20], [[0], [1, 2], [3]]),
        # One row may be larger than a block.
        ([2**30, 1], [[0], [1]]),
    ],
)
def test_blocks_are_bounded_by_rows_and_decoded_bytes(
    cost: list[int], found: list[list[int]]
) -> None:
    assert blocks(cost) == found


def test_each_node_commits_its_own_columns(layout: RunLayout) -> None:
    operator = ScoreOperator(layout, BOTH, HERE)
    assert [operator(0), operator(0)] == [False, True]
    uids = layout.store("draw").table(layout.store("draw").need(0))["uid"].to_pylist()
    uids.pop(3)
    for node, columns in (("bright", ["uid", "brightness"]), ("length", ["uid", "length"])):
        record = layout.store(node).need(0)
        table = layout.store(node).table(record)
        assert table.column_names == columns and table["uid"].to_pylist() == uids
        assert (record.rows_in, record.rows_out, record.dropped) == (7, 7, {})
        assert record.inputs == {"draw": layout.digest("draw", 0)}
    # Embeddings lie beside the table.
    record = layout.store("bright").need(0)
    array = load_saved_array(layout.store("bright").folder, record.files["toy_embedding"]["name"])
    assert array.shape == (7, 3) and array.dtype == np.float16


def test_only_what_is_missing_is_scored(layout: RunLayout) -> None:
    ScoreOperator(layout, BOTH, HERE)(0)
    before = {node: layout.store(node).need(0).files for node in BOTH}
    layout.store("length").drop([0])
    assert ScoreOperator(layout, BOTH, HERE)(0) is False
    assert layout.store("bright").need(0).files == before["bright"]
    length = layout.store("length").need(0).files
    assert length != before["length"] and length["rows"]["xxh3"] == before["length"]["rows"]["xxh3"]


def test_a_debugger_sees_the_stage_s_own_exception(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(length=ToyLength(raises=("picture 2",))))
    advance(layout, "rows", "draw")
    with pytest.raises(ValueError, match="cannot measure this"):
        ScoreOperator(layout, BOTH, HERE)(0)


class _Frail:
    """A worker that dies of some (row, node), and of more rows at once than it has room for."""

    def __init__(self, operator: ScoreOperator, deadly: set[tuple[int, str]], room: int) -> None:
        self.worker, self.deadly, self.room = operator.worker, deadly, room
        self.deaths = 0

    def call(self, method: str, *args: object, deadline_s: float) -> BlockScores:
        part, rows, without = args
        seen = {(row, node) for node in BOTH for row in rows if row not in without.get(node, ())}  # type: ignore[attr-defined]
        if self.deadly & seen or len(rows) > self.room:  # type: ignore[arg-type]
            self.deaths += 1
            raise ChildDied("killed by signal 9")
        found: BlockScores = self.worker.call(method, part, rows, without, deadline_s=deadline_s)
        return found

    def stream(self, method: str, *args: object, silence_s: float) -> Iterator[object]:
        _, pairs = args
        for index, pair in enumerate(pairs):  # type: ignore[arg-type, var-annotated]
            yield index, None
            if pair in self.deadly:
                self.deaths += 1
                raise ChildDied("killed by signal 9")

    def call_readonly(self, method: str, *args: object) -> object:
        return self.worker.call_readonly(method, *args)

    def on_beat(self, listener: object) -> None:
        """Its heartbeats are not listened to here."""

    def peak_mb(self) -> float:
        return 0.0

    def close(self) -> None:
        """A worker that is refused is let go."""


def frail(layout: RunLayout, deadly: set[tuple[int, str]], room: int = 99) -> ScoreOperator:
    operator = ScoreOperator(layout, BOTH, HERE)
    operator._supervised = _Frail(operator, deadly, room)  # type: ignore[assignment]
    # As of here it believes that its worker is a child, which may die.
    operator.supervision = Supervision()
    return operator


@pytest.mark.parametrize(
    "deadly",
    [
        {(0, "length")},
        {(6, "bright")},
        {(1, "length"), (1, "bright"), (4, "length")},
        {(row, "length") for row in range(6)},
    ],
)
def test_poison_is_set_aside_for_the_node_that_it_kills(
    layout: RunLayout, deadly: set[tuple[int, str]], tmp_path: Path
) -> None:
    calm = lay(tmp_path / "calm", layout.dag)
    advance(calm, "rows", "draw", *BOTH)
    assert frail(layout, deadly)(0) is False
    for node in BOTH:
        bad = sorted(row for row, name in deadly if name == node)
        record = layout.store(node).need(0)
        assert record.dropped == ({"poisoned": len(bad)} if bad else {})
        whole = calm.store(node).table(calm.store(node).need(0))
        rest = pa.array([row for row in range(7) if row not in bad], pa.int64())
        # The others are scored as if nothing had happened.
        assert layout.store(node).table(record).equals(whole.take(rest))
        if bad:
            dropped = layout.store(node).table(record, DROPPED_ROWS).to_pylist()
            uids = whole["uid"].to_pylist()
            assert [row["uid"] for row in dropped] == [uids[row] for row in bad]
            assert {row["value"] for row in dropped} == {"killed by signal 9"}


def test_a_stage_that_every_row_kills_is_broken(layout: RunLayout) -> None:
    deadly = {(row, "length") for row in range(7)}
    with pytest.raises(StageError, match="fails on every row it is given: killed"):
        frail(layout, deadly)(0)


def test_rows_that_are_too_many_together_are_split_and_it_is_recorded(
    layout: RunLayout, tmp_path: Path
) -> None:
    calm = lay(tmp_path / "calm", layout.dag)
    advance(calm, "rows", "draw", *BOTH)
    assert frail(layout, set(), room=4)(0) is False
    for node in BOTH:
        record = layout.store(node).need(0)
        # Seven rows as three and four: each half counts the split.
        assert record.block_splits == 2 and record.dropped == {}
        assert record.stored()["halved"] == 2
        assert record.digest == calm.store(node).need(0).digest


def blobs_of(layout: RunLayout) -> Path:
    store = layout.store("draw")
    return Path(store.folder.join(store.need(0).files["blobs"]["name"]))


def test_pictures_that_are_away_for_a_moment_cost_no_row(layout: RunLayout) -> None:
    path = blobs_of(layout)
    away = path.rename(path.with_suffix(".away"))
    back = threading.Timer(0.2, away.rename, (path,))
    back.start()
    # In a child, as a run has it.
    operator = ScoreOperator(layout, ("bright",), Supervision())
    operator(0)
    operator.close()
    back.join()
    record = layout.store("bright").need(0)
    assert (record.rows_out, record.dropped) == (7, {})


def _gone(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _changed(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


@pytest.mark.parametrize("damage", [_gone, _cut, _changed])
@pytest.mark.parametrize("isolate", [True, False])
def test_pictures_that_stay_wrong_stop_the_part_and_poison_no_row(
    damage: Callable[[Path], None],
    isolate: bool,
    layout: RunLayout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    damage(blobs_of(layout))
    operator = ScoreOperator(layout, ("bright",), Supervision(isolate=isolate))
    with pytest.raises(StorageError, match="gristmill repair"):
        operator(0)
    operator.close()
    assert layout.store("bright").record(0) is None


def test_poison_is_tried_again_where_that_is_asked(layout: RunLayout) -> None:
    frail(layout, {(2, "bright")})(0)
    assert layout.store("bright").need(0).dropped == {"poisoned": 1}
    assert ScoreOperator(layout, BOTH, HERE)(0)
    assert not ScoreOperator(layout, BOTH, HERE, retry_failed=True)(0)
    again = layout.store("bright").need(0)
    fresh = layout.store("length").need(0)
    assert (again.dropped, again.rows_out, fresh.rows_out) == ({}, 7, 7)
