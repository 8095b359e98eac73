"""Rows of an added list that share a name with one that is there: the same row, or another."""

from __future__ import annotations

from pathlib import Path

from toy_run import advance, lay, toy_dag
from two_lists import Files, added, rows_of, two_lists

from gristmill.pipelines.schema import make_uid


def test_a_row_with_a_url_is_known_by_it(tmp_path: Path) -> None:
    layout = two_lists(tmp_path)
    advance(layout, "rows")
    assert [row["row"] for row in rows_of(layout, 3)] == [*range(22, 31)]
    dropped = [layout.store("rows").need(part).dropped for part in (3, 4)]
    assert sum(one.get("repeated row", 0) for one in dropped) == 3


def test_a_row_without_is_known_by_where_it_lies(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(rows=Files(names=("1.jpg", "2.jpg=a dog"))))
    advance(layout, "rows")
    # Another picture of that name, twice; one with another caption; one of another name.
    names = ("1.jpg", "2.jpg=a dog", "2.jpg=a cat", "3.jpg")
    layout = added(layout, Files(path="/b", names=names))
    advance(layout, "rows")
    before, now = rows_of(layout)[:2], rows_of(layout, 1)
    assert [row["pointer"] for row in now] == [f"file:/b/{i}.jpg" for i in (1, 2, 2, 3)]
    uids = [row["uid"] for row in (*before, *now)]
    assert len(set(uids)) == 6
    images = [row["image_id"] for row in now]
    assert images[1] == images[2] and not {row["image_id"] for row in before} & set(images)
    assert now[3]["uid"] == make_uid("path", "3.jpg", None)
    # Both folders have grown: what lay there is what it was.
    for path, grown in (("/a", ("1.jpg", "4.jpg")), ("/b", (*names, "5.jpg"))):
        first = len(layout.store("rows").parts())
        layout = added(layout, Files(path=path, names=grown))
        advance(layout, "rows")
        assert [row["pointer"] for row in rows_of(layout, first)] == [f"file:{path}/{grown[-1]}"]


def test_a_folder_that_was_moved_is_known_by_its_path(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(rows=Files(path="pictures", names=("1.jpg",))))
    advance(layout, "rows")
    layout = added(layout, Files(path="pictures", names=("1.jpg", "2.jpg")))
    advance(layout, "rows")
    assert [row["pointer"] for row in rows_of(layout, 1)] == ["file:pictures/2.jpg"]
