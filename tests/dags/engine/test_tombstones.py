"""Tombstones: set once, in order, and their digest follows what they name."""

from __future__ import annotations

from pathlib import Path

from gristmill.dags.engine.tombstones import (
    Tombstone,
    add_tombstones,
    read_tombstones,
    tombstones_digest,
)
from gristmill.pipelines.storage import Folder


def stone(kind: str, value: str, why: str = "asked") -> Tombstone:
    return {"kind": kind, "value": value, "when": "2026-01-01T00:00:00+00:00", "why": why}


def test_a_tombstone_stands_once_and_as_it_was_set_first(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert len(read_tombstones(folder)) == 0 and tombstones_digest(folder) == ""
    add_tombstones(folder, [stone("uid", "b"), stone("sha256", "b")])
    add_tombstones(folder, [stone("uid", "a"), stone("uid", "b", "again")])
    rows = read_tombstones(folder).to_pylist()
    assert [(row["kind"], row["value"], row["why"]) for row in rows] == [
        ("uid", "b", "asked"), ("sha256", "b", "asked"), ("uid", "a", "asked"),
    ]  # fmt: skip


def test_the_digest_is_of_what_is_named_in_any_order(tmp_path: Path) -> None:
    one, two = Folder(str(tmp_path / "one")), Folder(str(tmp_path / "two"))
    add_tombstones(one, [stone("uid", "a"), stone("uid", "b")])
    add_tombstones(two, [stone("uid", "b", "other words"), stone("uid", "a")])
    assert tombstones_digest(one) == tombstones_digest(two) != ""
    add_tombstones(two, [stone("image_id", "a")])
    assert tombstones_digest(one) != tombstones_digest(two)


def test_nothing_to_set_writes_nothing(tmp_path: Path) -> None:
    add_tombstones(Folder(str(tmp_path)), [])
    assert list(tmp_path.iterdir()) == []
