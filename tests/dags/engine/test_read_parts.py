"""From chunks to parts: one order whatever the chunks, no image torn apart, repeated rows aside."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import advance, captions, lay, toy_dag
from toy_stages import ToyRows

from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.read_parts import TOO_MANY, ScanOperator, cut_parts, scans
from gristmill.dags.engine.run_folder import DROPPED_ROWS, RunLayout
from gristmill.errors import SourceError
from gristmill.pipelines.schema import ROW


def cut(
    folder: Path, stage: ToyRows, part_rows: int, *, limit: int = 0, backwards: bool = False
) -> list[pa.Table]:
    """The parts of a toy source."""
    layout = lay(folder, toy_dag(part_rows=part_rows, rows=stage), limit)
    scan = ScanOperator(layout)
    tasks = range(len(scan.chunks))
    for chunk in reversed(tasks) if backwards else tasks:
        assert scan(chunk) is False
    parts = cut_parts(layout, len(scan.chunks))
    assert parts_done(layout) == parts
    store = layout.store("rows")
    return [store.table(store.need(part)) for part in range(parts)]


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("backwards", [False, True])
def test_parts_do_not_depend_on_chunks_or_their_order(
    chunk: int, backwards: bool, tmp_path: Path
) -> None:
    parts = cut(tmp_path, ToyRows(rows=24, chunk=chunk), 8, backwards=backwards)
    assert [list(captions(part)) for part in parts] == [
        list(range(8)), [8, *range(10, 16)], [16, 17, 18, *range(20, 24)],
    ]  # fmt: skip
    for part in parts:
        assert part.schema.equals(ROW) and part["row"].to_pylist() == list(captions(part))


def test_a_row_that_the_source_holds_twice_is_set_aside_and_says_where_the_first_is(
    tmp_path: Path,
) -> None:
    cut(tmp_path, ToyRows(rows=24, chunk=24), 8)
    store = lay(tmp_path).store("rows")
    records = [store.need(part) for part in range(3)]
    assert [record.dropped for record in records] == [{}, {"repeated row": 1}, {"repeated row": 1}]
    assert [(record.rows_in, record.rows_out) for record in records] == [(8, 8), (8, 7), (8, 7)]
    again = store.table(records[1], DROPPED_ROWS).to_pylist()
    assert [(row["row"], row["reason"], row["value"]) for row in again] == [
        (9, "repeated row", "first in row 8")
    ]
    assert DROPPED_ROWS not in records[0].files


def test_captions_of_one_image_lie_together_at_the_place_of_the_first(tmp_path: Path) -> None:
    class Scattered(ToyRows):
        """Rows of images 0 1 2 0 1 2 ..."""

        def read(self, chunk: tuple[int, int]):  # type: ignore[no-untyped-def]
            for table in super().read(chunk):
                rows = table.to_pylist()
                for row in rows:
                    number = chunk[0] + row["row"]
                    row["image_id"] = f"{number % 3:032d}"
                    row["uid"] = f"{number:032d}"
                yield pa.Table.from_pylist(rows, ROW)

    parts = cut(tmp_path, Scattered(rows=9, chunk=4), 2)
    # Longer than two rows, for no image is torn apart.
    assert [part["row"].to_pylist() for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


class OneImage(ToyRows):
    """Rows that are all captions of one image, every fourth said before."""

    most = 5

    def most_captions(self) -> int:
        return self.most

    def read(self, chunk: tuple[int, int]):  # type: ignore[no-untyped-def]
        for table in super().read(chunk):
            rows = table.to_pylist()
            for row in rows:
                number = chunk[0] + row["row"]
                row["image_id"] = "0" * 32
                row["uid"] = f"{number - (number % 4 == 3):032d}"
            yield pa.Table.from_pylist(rows, ROW)


def test_captions_of_an_image_beyond_those_taken_are_set_aside(tmp_path: Path) -> None:
    parts = cut(tmp_path, OneImage(rows=40, chunk=7), 8)
    # Three of each four rows are captions of their own.
    assert [row for part in parts for row in part["row"].to_pylist()] == [0, 1, 2, 4, 5]
    layout = lay(tmp_path, toy_dag(part_rows=8, rows=OneImage(rows=40, chunk=7)))
    store = layout.store("rows")
    records = [store.need(part) for part in range(len(parts))]
    # What is set aside needs to lie in no part of its own kind.
    assert max(record.rows_in for record in records) <= 16 and len(parts) >= 3
    assert sum(record.rows_in for record in records) == 40
    dropped = [row for record in records for row in store.table(record, DROPPED_ROWS).to_pylist()]
    reasons = {row["row"]: (row["reason"], row["value"]) for row in dropped}
    assert reasons[3] == ("repeated row", "first in row 2")
    assert reasons[6] == (TOO_MANY, "caption 6 of it")
    assert reasons[39] == ("repeated row", "first in row 38") and len(reasons) == 35


def test_parts_of_which_nothing_is_taken_go_through_all_nodes(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(part_rows=8, rows=OneImage(rows=40, chunk=40)))
    assert advance(layout) >= 3
    kept = [layout.store("keep").need(part).rows_in for part in range(advance(layout, "keep"))]
    assert kept[0] == 5 and not any(kept[1:])


def test_all_captions_of_an_image_are_taken_where_that_is_wanted(tmp_path: Path) -> None:
    class All(OneImage):
        """No bound."""

        most = 0

    parts = cut(tmp_path, All(rows=40, chunk=7), 8)
    assert [len(part) for part in parts] == [30]


def test_a_limit_takes_the_first_rows_of_the_source(tmp_path: Path) -> None:
    parts = cut(tmp_path, ToyRows(rows=24, chunk=5), 8, limit=11)
    assert [number for part in parts for number in captions(part)] == [*range(9), 10]


def test_a_chunk_is_scanned_once_and_no_further_than_the_limit(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(rows=ToyRows(rows=24, chunk=12)), limit=5)
    scan = ScanOperator(layout)
    assert [scan(0), scan(0)] == [False, True]
    assert scans(layout).need(0).rows_out == 5
    assert scan.needs() == ToyRows().needs()
    scan.close()


def test_nothing_is_cut_before_it_is(tmp_path: Path) -> None:
    assert parts_done(lay(tmp_path)) is None


def test_a_source_without_rows_is_an_error(tmp_path: Path) -> None:
    layout: RunLayout = lay(tmp_path, toy_dag(rows=ToyRows(rows=0)))
    with pytest.raises(SourceError, match="the source of toy has no rows"):
        cut_parts(layout, 0)
    assert parts_done(layout) is None and layout.folder.names("scratch") == []
