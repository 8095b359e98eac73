"""What a stage hands back is held to what it said, at once and by the name of the column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from toy_stages import ToyRows

from gristmill.errors import StageError
from gristmill.pipelines.contract import MapContract
from gristmill.pipelines.schema import make_child_uid, with_columns
from gristmill.pipelines.stage import Map, Score

CHANGES: dict[str, Callable[[pa.Table], pa.Table | list[pa.Table]]] = {
    "nothing": lambda table: table,
    "column": lambda table: table.drop_columns(["caption"]),
    "type": lambda table: table.set_column(
        table.schema.get_field_index("caption"), "caption", pa.array([1] * len(table))
    ),
    "extra": lambda table: table.append_column("colour", pa.array(["red"] * len(table))),
    "repeated": lambda table: pa.concat_tables([table, table.slice(2, 1)]),
    "lost": lambda table: table.slice(1),
    "stray": lambda table: with_columns(
        table, {"uid": ["f" * 32, *table["uid"].to_pylist()[1:]]}, table.schema
    ),
    "child": lambda table: with_columns(
        table,
        {
            "uid": ["one", *table["uid"].to_pylist()[1:]],
            "parent_uid": [table["uid"][0].as_py(), *[None] * (len(table) - 1)],
        },
        table.schema,
    ),
    "null": lambda table: with_columns(
        table, {"status": [None] * len(table)}, pa.schema([("status", pa.string())])
    ),
    "list": lambda table: table.to_pylist(),  # type: ignore[return-value]
    "uneven": lambda table: [table.slice(0, 2), table.slice(2).drop_columns(["size"])],
}


@dataclass(frozen=True, kw_only=True)
class Sizes(Map):
    """The length of each caption, and whatever else is asked of it."""

    change: str = "nothing"

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("size", pa.int32())])

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        sizes = [len(text) for text in table["caption"].to_pylist()]
        out = table.append_column("size", pa.array(sizes, pa.int32()))
        changed = CHANGES[self.change](out)
        yield from changed if isinstance(changed, list) and self.change == "uneven" else [changed]


@dataclass(frozen=True, kw_only=True)
class Lengths(Score):
    """The length of each caption, as `columns` returns it."""

    how: str = "right"

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("length", pa.int32()), pa.field("words", pa.int32())])

    def score(self, table: pa.Table, images: Any) -> pa.Table:
        texts = table["caption"].to_pylist()
        length = pa.array([len(text) for text in texts], pa.int32())
        words = pa.array([len(text.split()) for text in texts], pa.int32())
        return {
            "right": pa.table({"length": length, "words": words}),
            "turned": pa.table({"words": words, "length": length}),
            "short": pa.table({"length": length[1:], "words": words[1:]}),
            "missing": pa.table({"length": length}),
            "extra": pa.table({"length": length, "words": words, "uid": texts}),
            "type": pa.table({"length": length.cast(pa.int64()), "words": words}),
            "list": texts,
        }[self.how]


def rows() -> pa.Table:
    stage = ToyRows(rows=5)
    return next(iter(stage.read(stage.chunks()[0])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("column", r"Sizes yields a table without the column 'caption' \(string\); it came in"),
        ("type", "Sizes yields the column 'caption' as int64; it must be string: cast it"),
        ("extra", r"yields the column 'colour' \(string\), which its writes\(\) does not name"),
        ("repeated", r"two rows with the uid [0-9a-f]{32}; .*make_child_uid"),
        ("lost", r"Sizes lost 1 of 5 rows, first [0-9a-f]{32}; .*parent_uid"),
        ("stray", "which comes from no row it was given: its parent_uid is None"),
        ("child", "a row with the uid 'one'; a uid has 32 hex digits: make_child_uid"),
        ("null", "yields a null in the column 'status'"),
        ("list", "yields a list; yield Arrow tables"),
        ("uneven", r"without the column 'size' \(int32\); its writes\(\) names it"),
    ],
)
def test_what_a_map_yields_is_held_to_its_schema(change: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        Sizes(change=change)(rows())


def test_a_map_that_keeps_its_word_passes() -> None:
    out = Sizes()(rows())
    assert out["size"].to_pylist() == [len(text) for text in rows()["caption"].to_pylist()]
    # A notebook may hand over less than a run does.
    assert Sizes()(rows().select(["caption"])).column_names == ["caption", "size"]


def test_the_order_of_columns_is_nobody_s_concern() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Turned(Sizes):
        def map(self, table: pa.Table) -> Iterator[pa.Table]:
            for row in range(len(table)):
                (out,) = super().map(table.slice(row, 1))
                yield out.select(out.column_names[:: 1 if row % 2 else -1])

    assert Turned()(rows()).num_rows == 5


def test_children_are_known_by_their_parent() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Halves(Sizes):
        def map(self, table: pa.Table) -> Iterator[pa.Table]:
            for row in range(len(table)):
                (out,) = super().map(table.slice(row, 1))
                parent = out["uid"][0].as_py()
                uids = [make_child_uid(parent, "Halves", number) for number in range(2)]
                twice = pa.concat_tables([out, out])
                yield with_columns(twice, {"uid": uids, "parent_uid": [parent] * 2}, out.schema)

    assert Halves()(rows()).num_rows == 10


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", "Lengths returns 4 rows for 5; return one a row"),
        ("missing", r"Lengths returns a table without the column 'words' \(int32\)"),
        ("extra", r"returns the column 'uid' \(string\), which its writes\(\) does not name"),
        ("type", "returns the column 'length' as int64; it must be int32"),
        ("list", "returns a list; return an Arrow table"),
    ],
)
def test_what_a_score_returns_is_held_to_its_schema(how: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        Lengths(how=how)(rows())


def test_a_score_may_name_its_columns_in_any_order() -> None:
    assert Lengths(how="turned")(rows()).equals(Lengths()(rows()))


def test_what_is_taken_back_may_come_again_and_must() -> None:
    table = next(ToyRows(rows=3).read((0, 3)))
    contract = MapContract("Sizes", pa.schema([]), lambda _: True, table)
    contract.check(table)
    contract.take_back(table.slice(1, 1))
    with pytest.raises(StageError, match="lost 1 of 3 rows"):
        contract.close()
    contract.check(table.slice(1, 1))
    contract.close()
