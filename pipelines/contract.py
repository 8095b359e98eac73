"""What a stage hands back is held to what it said it would: at once, and by the name of the column.

A Map that forgets a column, a Score with a row too few, a type that is almost right: each would
otherwise come to light many nodes later, or in the shards.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.errors import StageError

# Bytes of a picture go in and out of a Map under this name, the place where they lie under those.
_BYTES, _PLACES = "image", ("blob_offset", "blob_size", "stored_sha256")
_UID = re.compile(r"[0-9a-f]{32}")


class MapContract:
    """What one call of a Map may yield, checked table by table.

    `who` names the stage, and its node if it has one; `entering`: the rows that go in.
    """

    def __init__(
        self, who: str, writes: pa.Schema, forwards: Callable[[str], bool], entering: pa.Table
    ) -> None:
        self.who, self.writes = who, writes
        stores_bytes = _BYTES in writes.names
        fields = {
            field.name: field
            for field in entering.schema
            if (forwards(field.name) or field.name in writes.names) and field.name != _BYTES
        }
        # The caller writes down where the bytes lie.
        self._optional = {name: fields.pop(name) for name in _PLACES if name in fields and (
            stores_bytes and name not in writes.names)}  # fmt: skip
        self._wanted = fields | {field.name: field for field in writes}
        self._schema: pa.Schema | None = None
        has_uids = {"uid", "parent_uid"} <= set(entering.column_names)
        self._missing = set(entering["uid"].to_pylist()) if has_uids else None
        self._origins = frozenset(self._missing or ())
        self._seen: set[str] = set()

    def check(self, out: pa.Table) -> pa.Table:
        """`out` with its columns in the order of the first table; `StageError` if it is not what
        the stage said."""
        if not isinstance(out, pa.Table):
            raise StageError(f"{self.who} yields a {type(out).__name__}; yield Arrow tables")
        known = self._wanted | self._optional
        for name in self._wanted:
            if name not in out.column_names:
                says = (
                    "its writes() names it: give it by with_columns(table, ...), or take it out of "
                    "writes()"
                    if name in self.writes.names
                    else "it came in: build tables from the one that came in, "
                    "with_columns(table, ...), or leave it out on purpose by forwards_column()"
                )
                raise StageError(
                    f"{self.who} yields a table without the column {name!r} "
                    f"({self._wanted[name].type}); {says}"
                )
        _check_types(self.who, "yields", out, known)
        if self._missing is not None:
            self._check_uids(out)
        if self._schema is None:
            self._schema = out.schema
        if out.schema != self._schema:
            names = self._schema.names
            if set(names) != set(out.column_names):
                raise StageError(
                    f"{self.who} yields tables with {', '.join(names)} and then one with "
                    f"{', '.join(out.column_names)}; yield the same columns each time"
                )
            out = pa.table([out[name] for name in names], schema=self._schema)
        return out

    def take_back(self, out: pa.Table) -> None:
        """Forget a table that was checked: its row failed after all."""
        if self._missing is None:
            return
        for uid, parent in zip(out["uid"].to_pylist(), out["parent_uid"].to_pylist(), strict=True):
            self._seen.discard(uid)
            self._missing.add(uid if uid in self._origins else parent)

    def close(self) -> None:
        """After the last table: every row that went in must have come out, or have a child."""
        if self._missing:
            raise StageError(
                f"{self.who} lost {len(self._missing)} of {len(self._origins)} rows, first "
                f"{min(self._missing)}; it must yield each, or rows whose parent_uid it is: set "
                "status and error of a row that cannot be processed"
            )

    def _check_uids(self, out: pa.Table) -> None:
        assert self._missing is not None
        uids, parents = out["uid"].to_pylist(), out["parent_uid"].to_pylist()
        for uid, parent in zip(uids, parents, strict=True):
            if uid in self._seen:
                raise StageError(
                    f"{self.who} yields two rows with the uid {uid}; each row has its own: that "
                    "of a new row is make_child_uid(parent_uid, stage, number)"
                )
            self._seen.add(uid)
            if uid in self._origins:
                self._missing.discard(uid)
            elif parent not in self._origins:
                raise StageError(
                    f"{self.who} yields row {uid!r}, which comes from no row it was given: its "
                    f"parent_uid is {parent!r}; set it to the uid of the row that it was made of"
                )
            elif not _UID.fullmatch(uid):
                raise StageError(
                    f"{self.who} yields a row with the uid {uid!r}; a uid has 32 hex digits: "
                    "make_child_uid(parent_uid, stage, number)"
                )
            else:
                self._missing.discard(parent)


def check_columns(who: str, writes: pa.Schema, out: pa.Table, rows: int) -> pa.Table:
    """What a Score or a Global returned for `rows` rows, its columns in the order of `writes`;
    `StageError` if it is anything else than those columns, one value a row."""
    if not isinstance(out, pa.Table):
        raise StageError(f"{who} returns a {type(out).__name__}; return an Arrow table")
    for name in writes.names:
        if name not in out.column_names:
            raise StageError(
                f"{who} returns a table without the column {name!r} ({writes.field(name).type}), "
                "which its writes() names; return pa.table(..., schema=self.writes())"
            )
    _check_types(who, "returns", out, {field.name: field for field in writes})
    if len(out) != rows:
        raise StageError(
            f"{who} returns {len(out)} rows for {rows}; return one a row, in their order, null "
            "where there is no value"
        )
    return out.select(writes.names)


def _check_types(who: str, verb: str, out: pa.Table, known: dict[str, pa.Field]) -> None:
    for field in out.schema:
        if field.name not in known:
            raise StageError(
                f"{who} {verb} the column {field.name!r} ({field.type}), which its writes() does "
                "not name; name it there, or leave it out"
            )
        wanted = known[field.name]
        if field.type != wanted.type:
            raise StageError(
                f"{who} {verb} the column {field.name!r} as {field.type}; it must be "
                f"{wanted.type}: cast it, or say so in writes()"
            )
        if not wanted.nullable and pc.any(out[field.name].is_null()).as_py():
            raise StageError(f"{who} {verb} a null in the column {field.name!r}; it needs a value")
