"""A Map on a part: the order of the source, failures counted, what may heal tried again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import HERE, advance, captions, lay, toy_dag
from toy_stages import ToyDraw

from gristmill.dags.engine.map_operator import MapOperator
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.pipelines.child import ChildDied
from gristmill.pipelines.schema import make_child_uid


@dataclass(frozen=True, kw_only=True)
class DrawPieces(ToyDraw):
    """Each picture is there, and once more as a piece of itself."""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        for out in super().map(table):
            row = out.to_pylist()[0]
            piece = row | {
                "uid": make_child_uid(row["uid"], "pieces", 0),
                "parent_uid": row["uid"],
            }
            yield pa.Table.from_pylist([row, piece], out.schema)


def drawn(layout: RunLayout, part: int = 0) -> pa.Table:
    store = layout.store("draw")
    return store.table(store.need(part))


def images(layout: RunLayout, part: int = 0) -> list[bytes]:
    reader = RowReader(layout)
    table = reader.entering("bright", part, ["blob_offset", "blob_size"])
    part_column = pa.array([part] * len(table), pa.int32())
    return reader.images("bright", table.append_column("part", part_column))


def test_rows_are_in_the_order_of_the_source_and_failures_counted(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows")
    operator = MapOperator(layout, "draw", HERE)
    assert [operator(0), operator(0)] == [False, True]
    record = layout.store("draw").need(0)
    assert (record.rows_in, record.rows_out, record.rows_added) == (8, 7, 0)
    assert record.dropped == {"http 404": 1} and record.seconds > 0
    assert list(captions(drawn(layout))) == list(range(8))
    assert len(set(images(layout))) == 7
    assert layout.folder.names("scratch") == []


def test_pieces_are_rows_added(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=DrawPieces(fails=("picture 3",))))
    advance(layout, "rows", "draw")
    record = layout.store("draw").need(0)
    assert (record.rows_in, record.rows_added, record.rows_out) == (8, 8, 14)
    assert record.dropped == {"http 404": 2}
    assert list(captions(drawn(layout))) == [n for n in range(8) for _ in range(2)]


def test_what_may_heal_is_tried_again_and_nothing_else_is_touched(tmp_path: Path) -> None:
    fails = ("picture 3", "picture 5")
    layout = lay(tmp_path, toy_dag(draw=ToyDraw(fails=fails)))
    advance(layout, "rows", "draw")
    before, pictures = drawn(layout, 2), images(layout)
    healed = lay(tmp_path, toy_dag(draw=ToyDraw(fails=fails[1:])))
    operator = MapOperator(healed, "draw", HERE, retry_failed=True)
    # Parts without a failure are left alone.
    assert [operator(part) for part in range(3)] == [False, True, True]
    record = healed.store("draw").need(0)
    assert (record.rows_in, record.rows_out, record.dropped) == (8, 7, {"http 404": 1})
    assert list(captions(drawn(healed))) == list(range(8))
    assert drawn(healed, 2).equals(before)
    again = images(healed)
    assert again[:3] + again[4:] == pictures and len(set(again)) == 7
    # As if it had never failed.
    fresh = lay(tmp_path / "fresh", healed.dag)
    advance(fresh, "rows", "draw")
    assert images(fresh) == again
    names = [name for name in drawn(fresh).column_names if name != "blob_offset"]
    assert drawn(fresh).select(names).equals(drawn(healed).select(names))


class _Dying:
    """A worker that dies of some rows, as a child would, and notes what it was given."""

    def __init__(self, worker: object, deadly: set[int]) -> None:
        self.worker, self.deadly = worker, deadly
        self.given: list[list[int]] = []

    def stream(self, method: str, *args: object, silence_s: float) -> Iterator[object]:
        part, rows, path = args
        assert method == "map_rows" and isinstance(rows, list | None)
        known = list(range(8)) if rows is None else rows
        self.given.append(known)
        if self.deadly & set(known):
            raise ChildDied("exited with status 7")
        return self.worker.stream(method, part, rows, path, silence_s=silence_s)  # type: ignore[attr-defined, no-any-return]

    def call_readonly(self, method: str, *args: object) -> object:
        return self.worker.call_readonly(method, *args)  # type: ignore[attr-defined]

    def peak_mb(self) -> float:
        return 0.0

    def close(self) -> None:
        self.worker.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("deadly", [{0}, {5}, {2, 7}, set(range(8))])
def test_rows_that_kill_are_found_by_halving(deadly: set[int], tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=ToyDraw()))
    advance(layout, "rows")
    operator = MapOperator(layout, "draw", HERE)
    worker = _Dying(operator.worker, deadly)
    operator._supervised = worker  # type: ignore[assignment]
    assert operator(0) is False
    table = drawn(layout)
    poisoned = {n for n, s in enumerate(table["status"].to_pylist()) if s == "poisoned"}
    assert poisoned == deadly and list(captions(table)) == list(range(8))
    assert {e for e in table["error"].to_pylist() if e} == {"exited with status 7"}
    record = layout.store("draw").need(0)
    assert record.dropped == {"poisoned": len(deadly)} and record.rows_out == 8 - len(deadly)
    # A block goes twice before it is halved: a chance kill is not its fault.
    assert worker.given[:2] == [list(range(8))] * 2 and worker.given[2] == list(range(4))
    assert len(images(layout)) == 8 - len(deadly)
