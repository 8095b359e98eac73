"""Which groups of copies a report shows, found among all without holding them."""

from __future__ import annotations

import os
from typing import TypedDict, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

# Bytes that the table of all copies may take before it goes to disk.
_MEMORY = "150MB"
GROUP_COLUMNS = (
    "uid", "image_id", "duplicate_of", "duplicate_kind", "duplicate_group",
    "duplicate_group_size", "duplicate_distance", "duplicate_overlap",
)  # fmt: skip


class CopyRow(TypedDict, total=False):
    """A row of a group; the kind and the distance are of pictures, the overlap of clips."""

    uid: str
    image_id: str
    duplicate_of: str | None
    duplicate_kind: str | None
    duplicate_group: str
    duplicate_group_size: int
    duplicate_distance: int | None
    duplicate_overlap: float | None


class GroupsOfCopies:
    """Counts the rows of each group, part by part, in a table that spills to a local folder."""

    def __init__(self, folder: str) -> None:
        self._database = duckdb.connect(":memory:")
        for setting in (
            "threads = 1",
            f"memory_limit = '{_MEMORY}'",
            f"temp_directory = '{os.path.join(folder, 'copies')}'",
        ):
            self._database.execute(f"SET {setting}")
        self._database.execute("CREATE TABLE copies(part INTEGER, name VARCHAR, near BOOLEAN)")

    def add(self, part: int, table: pa.Table) -> None:
        """Rows of a part, with `GROUP_COLUMNS` as far as there are any."""
        copies = members(table)
        near: pa.Array = pa.array([False] * len(copies), pa.bool_())
        if "duplicate_kind" in copies.column_names:
            near = pc.fill_null(pc.equal(copies["duplicate_kind"], "near"), False)
        rows = pa.table(
            [pa.array([part] * len(copies), pa.int32()), copies["duplicate_group"], near],
            names=["part", "name", "near"],
        )
        self._database.register("found", rows)
        self._database.execute("INSERT INTO copies SELECT * FROM found")
        self._database.unregister("found")

    def most_telling(self, count: int) -> dict[str, list[int]]:
        """The groups to look at, with the parts in which they lie: near copies first, as they are
        what can be wrong; then the larger ones."""
        named = self._database.execute(
            "SELECT name FROM copies GROUP BY name "
            f"ORDER BY bool_or(near) DESC, count(*) DESC, name LIMIT {count}"
        ).fetchall()
        groups: dict[str, list[int]] = {str(name): [] for (name,) in named}
        for name, part in self._database.execute(
            "SELECT DISTINCT name, part FROM copies WHERE list_contains(?, name) ORDER BY part",
            [list(groups)],
        ).fetchall():
            groups[name].append(int(part))
        return groups


def members(table: pa.Table) -> pa.Table:
    """The rows that belong to a group of more than one."""
    return table.filter(pc.greater(table["duplicate_group_size"], 1))


def rows_of_groups(table: pa.Table, groups: list[str]) -> list[CopyRow]:
    """The rows of `table` that are in some groups, in their order."""
    chosen = members(table).filter(
        pc.is_in(members(table)["duplicate_group"], pa.array(groups, pa.string()))
    )
    return cast(list[CopyRow], chosen.to_pylist())


def copy_note(row: CopyRow) -> str:
    """How a row is like the one that stays."""
    if row["duplicate_of"] is None:
        return "stays"
    if "duplicate_overlap" in row:
        return f"overlap {row['duplicate_overlap'] or 0:.2f}"
    if row["duplicate_kind"] == "near":
        return f"near, {row['duplicate_distance']} bits"
    return f"same {row['duplicate_kind']}"
