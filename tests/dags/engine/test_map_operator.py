"""A Map on a part: the order of the source, failures counted, what may heal tried again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from toy_run import HERE, advance, captions, lay, toy_dag
from toy_stages import ToyDraw, ToyRows

from gristmill.dags.engine.map_operator import MapOperator
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.supervision import Supervised, Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import StageError, StorageError
from gristmill.pipelines.child import ChildDied
from gristmill.pipelines.decode import DecodeError
from gristmill.pipelines.schema import make_child_uid
from gristmill.pipelines.stage import Map


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


@dataclass(frozen=True, kw_only=True)
class RaisingDraw(DrawPieces):
    """Raises over some rows, after it has yielded some others."""

    raises: tuple[str, ...] = ()
    error: type[Exception] = ZeroDivisionError

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        for out in super().map(table):
            caption = out["caption"][0].as_py()
            if caption in self.raises:
                yield out.slice(0, 1)
                raise self.error(f"in {caption}")
            yield out


@dataclass(frozen=True, kw_only=True)
class InGroups(RaisingDraw):
    """The same; rows of one picture are seen together."""

    group_by: ClassVar[str] = "image_id"


@dataclass(frozen=True, kw_only=True)
class Halves(Map):
    """Each stored picture twice; raises over some, after the first."""

    takes_bytes: ClassVar[bool] = True
    raises: tuple[str, ...] = ()
    error: type[Exception] = ZeroDivisionError

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("half", pa.int32()), pa.field("image", pa.binary())])

    def forwards_column(self, column: str) -> bool:
        return column != "licence"

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        row = table.drop_columns(["licence"]).to_pylist()[0]
        for half in range(2):
            uid = make_child_uid(row["uid"], "halves", half)
            out = row | {"uid": uid, "parent_uid": row["uid"], "half": half}
            schema = pa.schema([*table.schema, self.writes().field("half")])
            schema = schema.remove(schema.get_field_index("licence"))
            yield pa.Table.from_pylist([out], schema)
            if row["caption"] in self.raises:
                raise self.error(f"in {row['caption']}")


def halved(folder: Path, **fields: object) -> RunLayout:
    nodes = {
        "rows": Node(ToyRows(rows=8)),
        "draw": Node(ToyDraw(), ("rows",)),
        "halves": Node(Halves(**fields), ("draw",)),  # type: ignore[arg-type]
    }
    layout = lay(folder, Dag("halved", nodes, 8))
    advance(layout, "rows", "draw")
    return layout


# Exceptions become verdicts, and the worker is here all the same.
ISOLATED = Supervision()


def isolated(layout: RunLayout, node: str = "draw") -> MapOperator:
    operator = MapOperator(layout, node, ISOLATED)
    operator._supervised = Supervised(layout, (node,), HERE)
    return operator


@pytest.mark.parametrize("kind", [RaisingDraw, InGroups])
@pytest.mark.parametrize("raises", [("picture 0",), ("picture 2", "picture 5", "picture 7")])
def test_a_row_s_exception_is_the_row_s_verdict(
    kind: type[RaisingDraw], raises: tuple[str, ...], tmp_path: Path
) -> None:
    layout = lay(tmp_path, toy_dag(draw=kind(fails=("picture 3",), raises=raises)))
    advance(layout, "rows")
    isolated(layout)(0)
    table = drawn(layout)
    poisoned = table.filter(pc.equal(table["status"], "poisoned"))
    assert poisoned["caption"].to_pylist() == list(raises)
    assert poisoned["error"].to_pylist() == [f"ZeroDivisionError: in {text}" for text in raises]
    assert set(poisoned["parent_uid"].to_pylist()) == {None}, "no half of a row is left"
    record = layout.store("draw").need(0)
    assert record.dropped == {"http 404": 2, "poisoned": len(raises)}
    assert (record.rows_in, record.rows_added) == (8, 8 - len(raises))
    assert len(images(layout)) == record.rows_out == 2 * (7 - len(raises))
    # As if the others had been alone.
    fresh = lay(tmp_path / "fresh", toy_dag(draw=kind(fails=("picture 3",))))
    advance(fresh, "rows", "draw")
    assert set(images(layout)) < set(images(fresh))


def test_a_row_alone_ends_alone_with_all_that_came_of_it(tmp_path: Path) -> None:
    layout = halved(tmp_path, raises=("picture 0", "picture 5"))
    isolated(layout, "halves")(0)
    store = layout.store("halves")
    record = store.need(0)
    table = store.table(record)
    assert list(captions(table)) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7]
    poisoned = table.filter(pc.equal(table["status"], "poisoned"))
    assert poisoned["error"].to_pylist() == [f"ZeroDivisionError: in picture {i}" for i in (0, 5)]
    assert poisoned["half"].null_count == poisoned["blob_size"].null_count == 2
    assert (record.rows_in, record.rows_added, record.rows_out) == (8, 6, 12)
    # The bytes of the others, and nothing else.
    assert record.files["blobs"]["size"] == sum(
        {row["blob_offset"]: row["blob_size"] for row in table.to_pylist() if row["blob_size"]}
        .values()
    )  # fmt: skip


EVERY = tuple(f"picture {i}" for i in range(8))


def test_a_stage_that_raises_over_every_row_stops_the_run(tmp_path: Path) -> None:
    refused = pytest.raises(StageError, match=r"fails on every row it is given: ZeroDivisionError")
    layout = lay(tmp_path / "together", toy_dag(draw=RaisingDraw(raises=EVERY)))
    advance(layout, "rows")
    with refused:
        isolated(layout)(0)
    with refused:
        isolated(halved(tmp_path / "alone", raises=EVERY), "halves")(0)


def test_bytes_that_are_all_bad_are_no_defect_of_the_stage(tmp_path: Path) -> None:
    layout = halved(tmp_path, raises=EVERY, error=DecodeError)
    isolated(layout, "halves")(0)
    assert layout.store("halves").need(0).dropped == {"poisoned": 8}


@dataclass(frozen=True, kw_only=True)
class DiskFull(ToyDraw):
    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        raise OSError(errno.ENOSPC, "no space left")


@dataclass(frozen=True, kw_only=True)
class StoreAway(ToyDraw):
    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        raise StorageError("the store stays away")


@pytest.mark.parametrize(("stage", "error"), [(DiskFull(), OSError), (StoreAway(), StorageError)])
def test_what_is_no_row_s_doing_is_no_verdict(
    stage: ToyDraw, error: type[Exception], tmp_path: Path
) -> None:
    layout = lay(tmp_path, toy_dag(draw=stage))
    advance(layout, "rows")
    with pytest.raises(error):
        isolated(layout)(0)
    assert layout.store("draw").parts() == []


class _Dying:
    """A worker that dies of some rows, as a child would, and notes what it was given."""

    def __init__(self, worker: object, deadly: set[int]) -> None:
        self.worker, self.deadly = worker, deadly
        self.given: list[list[int]] = []

    def stream(self, method: str, *args: object, silence_s: float) -> Iterator[object]:
        rows = args[1]
        assert method == "map_rows" and isinstance(rows, list | None)
        known = list(range(8)) if rows is None else rows
        self.given.append(known)
        if self.deadly & set(known):
            raise ChildDied("exited with status 7")
        return self.worker.stream(method, *args, silence_s=silence_s)  # type: ignore[attr-defined, no-any-return]

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


def test_a_row_that_kills_leaves_out_the_columns_that_end_there(tmp_path: Path) -> None:
    layout = halved(tmp_path)
    operator = MapOperator(layout, "halves", HERE)
    operator._supervised = _Dying(operator.worker, {2})  # type: ignore[assignment]
    operator(0)
    store = layout.store("halves")
    table = store.table(store.need(0))
    assert "licence" not in table.column_names and len(table) == 15
    assert table["status"].to_pylist().count("poisoned") == 1
