"""The groups of copies that a report shows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from gristmill.dags.reports.duplicate_groups import GroupsOfCopies, copy_note, rows_of_groups


def table(groups: list[tuple[str, int, str | None]]) -> pa.Table:
    names = ("duplicate_group", "duplicate_group_size", "duplicate_kind")
    return pa.table(dict(zip(names, (list(one) for one in zip(*groups, strict=True)), strict=True)))


def test_near_copies_come_first_then_the_larger_groups(tmp_path: Path) -> None:
    copies = GroupsOfCopies(str(tmp_path))
    copies.add(0, table([("b", 2, None), ("c", 3, None), ("x", 1, None), ("a", 2, None)]))
    copies.add(4, table([("b", 2, "near"), ("c", 3, "bytes"), ("c", 3, "bytes")]))
    copies.add(7, table([("a", 2, "pixels")]))
    assert copies.most_telling(9) == {"b": [0, 4], "c": [0, 4], "a": [0, 7]}
    assert list(copies.most_telling(2)) == ["b", "c"]


def test_rows_of_the_groups_in_their_order() -> None:
    rows = table([("b", 2, "near"), ("c", 1, None), ("a", 2, "bytes"), ("b", 2, None)])
    assert [row["duplicate_kind"] for row in rows_of_groups(rows, ["b", "c"])] == ["near", None]


def test_a_note_says_how_a_copy_is_like_the_survivor() -> None:
    assert copy_note({"duplicate_of": None}) == "stays"
    assert copy_note({"duplicate_of": "x", "duplicate_overlap": 0.5}) == "overlap 0.50"
    near = copy_note({"duplicate_of": "x", "duplicate_kind": "near", "duplicate_distance": 3})
    assert near == "near, 3 bits"
    assert copy_note({"duplicate_of": "x", "duplicate_kind": "bytes"}) == "same bytes"
