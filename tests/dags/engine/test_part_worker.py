"""The worker of a part: what it hands to stages, and what it does not take from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_run import advance, captions, lay, toy_dag
from toy_stages import ToyDraw, ToyLength

from gristmill.dags.engine.part_worker import PartWorker
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.errors import StageError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import ROW, make_child_uid, with_columns
from gristmill.pipelines.stage import Map


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """Rows that are drawn; part 0 has eight, of which picture 3 failed."""
    layout = lay(tmp_path_factory.mktemp("run"), toy_dag(draw=DrawTwice(fails=("picture 3",))))
    advance(layout, "rows", "draw")
    return layout


@dataclass(frozen=True, kw_only=True)
class DrawTwice(ToyDraw):
    """Two rows of one picture follow one another."""

    group_by = "image_id"

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        for out in super().map(table):
            uids = out["uid"].to_pylist()
            again = [make_child_uid(uid, "DrawTwice", 0) for uid in uids]
            yield pa.concat_tables(
                [out, with_columns(out, {"uid": again, "parent_uid": uids}, ROW)]
            )


@dataclass(frozen=True, kw_only=True)
class Careless(Map):
    """Yields what it is told to."""

    loses: bool = False

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        if self.loses:
            yield table.slice(1)
        else:
            stray = pa.array(["f" * 32] * len(table), pa.string())
            yield table.set_column(0, table.schema.field("uid"), stray)


@dataclass(frozen=True, kw_only=True)
class WrongShape(ToyLength):
    """Forgets a row, or calls its column by another name."""

    short: bool = False

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        if self.short:
            return super().score(table.slice(1), images)
        return super().score(table, images).rename_columns(["long"])


def test_what_enters_by_number(layout: RunLayout) -> None:
    worker = PartWorker(layout, ("bright", "length"))
    uids = worker.uids(0)
    assert worker.size(0) == len(uids) == 14
    assert worker.take(0, [13, 0])["uid"].to_pylist() == [uids[13], uids[0]]
    # Another part, then this one again.
    assert worker.uids(2) != uids and worker.uids(0) == uids


def test_costs_are_decoded_bytes(layout: RunLayout) -> None:
    assert PartWorker(layout, ("bright", "length")).costs(0) == ([12 * 8 * 3] * 14, [0.0] * 14)
    assert PartWorker(layout, ("length",)).costs(0) == ([0] * 14, [0.0] * 14)


def test_groups_are_what_a_map_must_see_together(layout: RunLayout) -> None:
    worker = PartWorker(layout, ("draw",))
    # Rows of the source, each an image of its own.
    assert worker.groups(0, [0, 2, 5]) == [[0], [2], [5]]
    assert PartWorker(layout, ("length",)).groups(0, [1, 0]) == [[1], [0]]
    entering = RowReader(layout).entering("length", 0, ["image_id"])["image_id"].to_pylist()
    assert entering[0] == entering[1] != entering[2]


def test_mapped_rows_come_in_the_order_of_their_origins_and_share_bytes(
    layout: RunLayout, tmp_path: Path
) -> None:
    worker = PartWorker(layout, ("draw",))
    path = str(tmp_path / "segment")
    assert list(worker.map_rows(0, [1, 3, 5], path)) == [1, 2, 3]
    table = pq.read_table(f"{path}.parquet")
    assert list(captions(table)) == [1, 1, 3, 3, 5, 5] and "image" not in table.column_names
    offsets, sizes = table["blob_offset"].to_pylist(), table["blob_size"].to_pylist()
    assert offsets[0] == offsets[1] and offsets[4] == offsets[5] and offsets[2] is None
    assert (tmp_path / "segment.blobs").stat().st_size == sizes[0] + sizes[4]


@pytest.mark.parametrize(
    ("loses", "message"),
    [(True, r"node 'draw' \(Careless\) lost 1 of 8 rows"), (False, "comes from no row")],
)
def test_a_map_loses_no_row_and_invents_none(loses: bool, message: str, tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=Careless(loses=loses)))
    advance(layout, "rows")
    worker = PartWorker(layout, ("draw",))
    with pytest.raises(StageError, match=message):
        list(worker.map_rows(0, None, str(tmp_path / "segment")))


def test_a_part_without_rows_is_mapped_to_the_same_columns(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=ToyDraw()))
    advance(layout, "rows")
    worker = PartWorker(layout, ("draw",))
    for name, rows in (("none", []), ("one", [0])):
        list(worker.map_rows(0, rows, str(tmp_path / name)))
    none, one = (pq.read_schema(tmp_path / f"{name}.parquet") for name in ("none", "one"))
    assert set(none.names) == set(one.names)
    assert all(none.field(name).type == one.field(name).type for name in none.names)


def test_nodes_share_a_block_less_what_is_poison_to_each(layout: RunLayout) -> None:
    worker = PartWorker(layout, ("bright", "length"))
    scores = worker.score_block(0, [2, 4, 6], {"bright": [4], "length": [2, 6]})
    assert scores.rows == {"bright": [2, 6], "length": [4]}
    assert scores.tables["length"]["length"].to_pylist() == [len("picture 2")]
    alone = worker.score_block(0, [2, 6], {})
    assert scores.tables["bright"].equals(alone.tables["bright"])
    assert set(scores.seconds) == {"bright", "length"}
    nothing = worker.score_block(0, [2], {"bright": [2], "length": [2]})
    assert nothing.rows == {"bright": [], "length": []}


@pytest.mark.parametrize(
    ("short", "message"),
    [(True, "returns 1 rows for 2"), (False, "without the column 'length'")],
)
def test_scores_of_another_shape_are_not_taken(short: bool, message: str, tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(length=WrongShape(short=short)))
    advance(layout, "rows", "draw")
    with pytest.raises(StageError, match=f"node 'length'.*{message}"):
        PartWorker(layout, ("length",)).score_block(0, [0, 1], {})


def test_rows_are_tried_one_by_one_with_a_word_before_each(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(length=ToyLength(raises=("picture 1",))))
    advance(layout, "rows", "draw")
    worker = PartWorker(layout, ("bright", "length"))
    pairs = [(0, "length"), (1, "length"), (1, "bright")]
    said = list(worker.score_each(0, pairs))
    assert [index for index, _ in said] == [0, 1, 1, 2]
    (failure,) = [why for _, why in said if why is not None]
    assert failure.message == "ValueError: cannot measure this" and not failure.undecodable
    assert re.fullmatch(r"ValueError in .*toy_stages\.py, line \d+", failure.place)
    assert failure.traceback.rstrip().endswith(failure.message)


def test_pictures_are_decoded_as_they_were_drawn(layout: RunLayout) -> None:
    scores = PartWorker(layout, ("bright",)).score_block(0, list(range(14)), {})
    brightness = scores.tables["bright"]["brightness"].to_numpy()
    assert (brightness[::2] == brightness[1::2]).all()
    assert np.ptp(brightness) > 1
