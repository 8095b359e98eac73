"""What a cell means: bytes are UTF-8 or fail, a list is several captions, a mapping is none."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import read

from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow
from gristmill.pipelines.sources.values import seconds, text_of, texts_of, to_json, whole


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (b"caf\xc3\xa9", "café"), (5, "5"), (2.5, "2.5"),
        (decimal.Decimal("1.20"), "1.20"),
        (None, None), (float("nan"), None), (True, None), ({"en": "a"}, None), (["a"], None),
        (datetime.date(2024, 1, 1), None), ("\udce9", "?"),
    ],
)  # fmt: skip
def test_only_texts_and_numbers_are_text(value: object, text: str | None) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "texts", "other"),
    [
        (["a", None, "b"], ["a", "b"], False), ([["a"], ["b"]], ["a", "b"], False),
        ([], [], False), ({"raw": "a"}, [], True), (["a", {"raw": "b"}], ["a"], True),
        ([b"a", 2], ["a", "2"], False), (False, [], True), ("['a', 'b']", ["['a', 'b']"], False),
    ],
)  # fmt: skip
def test_a_list_is_several_captions(value: object, texts: list[str], other: bool) -> None:
    assert texts_of(value) == (texts, other)


def row(**said: Any) -> list[dict[str, Any]]:
    rows = RowBuilder("s")
    rows.add(SourceRow(kind="url", locator="http://h/1", url="http://h/1", **said))
    return [row for table in rows.take(all_rows=True) for row in table.to_pylist()]


def test_captions_of_a_list_are_rows_of_one_picture() -> None:
    rows = row(caption=["one", "two", "two"])
    assert [r["caption"] for r in rows] == ["one", "two", "two"]
    assert len({r["image_id"] for r in rows}) == 1 and rows[0]["uid"] != rows[1]["uid"]
    assert rows[1]["uid"] == rows[2]["uid"] and [r["row"] for r in rows] == [0, 1, 2]


def test_a_mapping_is_no_caption_and_is_not_lost() -> None:
    (found,) = row(caption={"en": "a cat"}, licence={"name": "CC"}, meta={"x": 1})
    assert found["caption"] is None and found["licence"] is None and found["error"] is None
    assert json.loads(found["meta"]) == {
        "caption": {"en": "a cat"}, "licence": {"name": "CC"}, "x": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "said", [{"caption": b"caf\xe9"}, {"caption": ["a", b"\xff"]}, {"licence": b"\xe9"}]
)
def test_bytes_that_are_no_utf8_fail(said: dict[str, Any]) -> None:
    (found,) = row(**said)
    assert (found["status"], found["error"]) == ("failed_to_decode", "text is not UTF-8")


def test_a_size_that_is_no_number_is_not_lost() -> None:
    (found,) = row(width="640px", height="")
    assert found["original_width"] is None and found["meta"] == '{"width": "640px"}'


def test_numbers_and_times_of_columns_are_read_from_bytes_as_well() -> None:
    assert whole(b"12") == whole("12") == whole(12.0) == 12 and whole({"a": 1}) is None
    assert (
        seconds(b"1:05") == seconds("65") == 65
        and seconds([1]) is None
        and seconds(b"\xff") is None
    )
    assert (
        to_json({"a": b"text", "b": b"\xff", "c": [b"\xff", b"x"]}) == '{"a": "text", "c": ["x"]}'
    )


@pytest.mark.parametrize(
    ("column", "captions"),
    [
        (pa.array([b"a cat", b"caf\xc3\xa9"]), ["a cat", "café"]),
        (pa.array([["one", "two"], []]), ["one", "two", None]),
        (pa.array([{"raw": "x"}, {"raw": "y"}]), [None, None]),
        (pa.array([[("en", "x")], []], pa.map_(pa.string(), pa.string())), [None, None]),
        (pa.array([[("e", "x"), ("e", "y")]] * 2, pa.map_(pa.string(), pa.string())), [None, None]),
        (pa.array([[{"raw": "x"}], ["y"][:0]]), [None, None]),
        (pa.array(["x", "x"]).dictionary_encode(), ["x", "x"]),
        (pa.array([3, None]), ["3", None]),
        (pa.array([True, False]), [None, None]),
        (pa.array([b"caf\xe9", b"ok"], pa.binary()).view(pa.string()), [None, "ok"]),
    ],
)
def test_columns_of_every_type(
    column: pa.Array, captions: list[str | None], tmp_path: Path
) -> None:
    urls = pa.array([b"http://h/1", b"http://h/2"])
    table = pa.table({"url": urls, "caption": column})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row["caption"] for row in rows] == captions
    assert {row["url"] for row in rows} == {"http://h/1", "http://h/2"}
