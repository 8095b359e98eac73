"""Columns of the source that rows carry: their types, what is no value, names that are taken."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.source_columns import SourceColumns, parse_columns

VALUES: dict[str, list[object]] = {
    "similarity": [0.31, 0.25, None],
    "seen": [3, 2**62, None],
    "safe": [True, False, None],
    "nsfw": ["UNLIKELY", "NSFW", None],
    "zip": ["00123", "20095", None],
    "mixed": [1, "many", None],
    "tags": [["a", "ü"], [], None],
    "deep": [{"score": 0.5}, {"score": 1}, None],
}
TYPES = {
    "similarity": "float64", "seen": "int64", "safe": "bool", "nsfw": "string", "zip": "string",
    "mixed": "string", "tags": "string", "score": "float64",
}  # fmt: skip
COLUMNS = {name: name for name in VALUES if name != "deep"} | {"score": "deep.score"}


def lines(path: Path, values: dict[str, list[object]]) -> Path:
    rows = [dict(zip(values, cells, strict=True)) for cells in zip(*values.values(), strict=True)]
    text = "\n".join(json.dumps({"url": f"http://a/{i}", **row}) for i, row in enumerate(rows))
    path.write_text(text)
    return path


def table(path: Path, values: dict[str, list[object]]) -> Path:
    plain = {name: cells for name, cells in values.items() if name != "mixed"}
    urls = [f"http://a/{i}" for i in range(len(values["seen"]))]
    pq.write_table(pa.table({"url": urls, **plain, "mixed": ["1", "many", None]}), path)
    return path


def carried(path: Path, stage: SourceColumns) -> tuple[SourceColumns, dict[str, list[Any]]]:
    source = Source(path=str(path))
    found = stage.settled(source.first_tables(), str(path), of_text=source.is_of_text())
    found.check()
    rows = pa.concat_tables(source.first_tables())
    return found, found(rows).select(list(stage.columns)).to_pydict()


@pytest.mark.parametrize("write", [lines, table])
def test_values_have_the_type_that_all_of_a_column_have(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("list.jsonl" if write is lines else "list.parquet"), VALUES)
    stage, found = carried(path, SourceColumns(columns=COLUMNS))
    assert stage.types == TYPES
    assert found == {
        **{name: VALUES[name] for name in ("similarity", "seen", "safe", "nsfw", "zip")},
        "mixed": ["1", "many", None],
        "tags": ['["a", "ü"]', "[]", None],
        "score": [0.5, 1.0, None],
    }


def test_a_csv_has_only_texts_and_means_more(tmp_path: Path) -> None:
    rows = [
        ["url", "similarity", "seen", "safe", "zip", "dash"],
        ["http://a/0", "0.31", "3", "True", "00123", "-"],
        ["http://a/1", "1e-3", "-2", "false", "20095", "4"],
        ["http://a/2", "None", "", "n/a", "", "NULL"],
    ]
    with open(tmp_path / "list.csv", "w", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    names = {name: name for name in rows[0][1:]}
    stage, found = carried(tmp_path / "list.csv", SourceColumns(columns=names))
    assert stage.types == {
        "similarity": "float64", "seen": "int64", "safe": "bool", "zip": "string", "dash": "int64",
    }  # fmt: skip
    assert found == {
        "similarity": [0.31, 0.001, None], "seen": [3, -2, None], "safe": [True, False, None],
        "zip": ["00123", "20095", ""], "dash": [None, 4, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values", "found"),
    [
        ("float64", ["x", "nan", "1e999", True, [1], "7"], [None, None, None, None, None, 7.0]),
        ("int64", [1.0, 1.5, 2**63, "12", "1.0", "٣"], [1, None, None, 12, 1, 3]),
        ("bool", ["TRUE", 1, "yes", False, None], [True, None, None, False, None]),
        ("string", [1.5, True, {"b": 1, "a": None}], ["1.5", "true", '{"a": null, "b": 1}']),
    ],
)
def test_what_is_not_of_the_type_is_no_value(
    kind: str, values: list[object], found: list[object]
) -> None:
    stage = SourceColumns(columns={"x": "x"}, types={"x": kind})
    rows = pa.table({"meta": [json.dumps({"x": value}) for value in values]})
    assert stage(rows)["x"].to_pylist() == found
    assert stage(pa.table({"meta": [None, "{}"]}).cast(rows.schema))["x"].to_pylist() == [None] * 2


def test_a_name_with_a_dot_is_itself_first_and_texts_may_hold_objects() -> None:
    stage = SourceColumns(columns={"x": "a.b"}, types={"x": "int64"})
    said: list[object] = [{"a.b": 1, "a": {"b": 2}}, {"a": {"b": 2}}, {"a": '{"b": 3}'}, {"a": "{"}]
    rows = pa.table({"meta": [json.dumps(values) for values in said]})
    assert stage(rows)["x"].to_pylist() == [1, 2, 3, None]


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.jsonl", VALUES)
    with pytest.raises(SourceError, match=r"no column 'simlarity'; did you mean 'similarity'"):
        carried(path, SourceColumns(columns={"x": "simlarity"}))
    stage, found = carried(path, SourceColumns(columns={"x": "late"}, types={"x": "int64"}))
    assert found == {"x": [None] * 3}, "one whose type is said may come later"
    assert stage.types == {"x": "int64"}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"columns": {"width": "WIDTH"}}, "my_width=WIDTH"),
        ({"columns": {"URL": "other"}}, "my_URL=other"),
        ({"columns": {"a b": "a b"}}, "no name of a column"),
        ({"columns": {"a": "x", "A": "y"}}, "two columns are called 'a'"),
        ({"columns": {"a": "x"}, "types": {"b": "int64"}}, "'b' is no column"),
        ({"columns": {"a": "x"}, "types": {"a": "int32"}}, "did you mean 'int64'"),
    ],
)
def test_names_and_types_that_cannot_be(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        SourceColumns(**fields).check()


def test_columns_as_they_are_typed() -> None:
    assert parse_columns(["similarity, nsfw:string", "q=meta.q:float", "a b", "x:y"]) == (
        {"similarity": "similarity", "nsfw": "nsfw", "q": "meta.q", "a_b": "a b", "x_y": "x:y"},
        {"nsfw": "string", "q": "float64"},
    )
    with pytest.raises(ConfigurationError, match="write NAME, OURS=NAME or NAME:TYPE"):
        parse_columns(["a,,b"])


IDS = [1234567890123456789, 9007199254740993, -(2**63)]
HASHES = [2**63 + 1, 2**63 + 2, 3]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_ids_are_what_they_were_to_the_last_digit(tmp_path: Path, form: str) -> None:
    """They went by way of a float: most were null, and several hashes became one."""
    path = tmp_path / f"list.{form}"
    values: dict[str, list[object]] = {"id": [*IDS], "hash": [*HASHES]}
    if form == "csv":
        lines_ = [f"http://a/{i},{a},{b}" for i, (a, b) in enumerate(zip(IDS, HASHES, strict=True))]
        path.write_text("\n".join(["url,id,hash", *lines_]))
    elif form == "jsonl":
        lines(path, values)
    else:
        hashes = pa.array(HASHES, pa.uint64())
        urls = [f"http://a/{i}" for i in range(3)]
        pq.write_table(pa.table({"url": urls, "id": IDS, "hash": hashes}), path)
    stage, found = carried(path, SourceColumns(columns={"id": "id", "hash": "hash"}))
    assert found["id"] == IDS and stage.types["id"] == "int64"
    assert [str(value) for value in found["hash"]] == [str(value) for value in HASHES]
    assert len({*found["hash"]}) == 3


def test_a_number_of_five_thousand_digits_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"url,n\nhttp://a/0,{'7' * 5000}\n")
    stage, found = carried(tmp_path / "list.csv", SourceColumns(columns={"n": "n"}))
    assert stage.types == {"n": "string"} and found == {"n": ["7" * 5000]}


def test_what_a_row_was_not_taken_by_can_be_carried(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.jsonl", {"filename": ["a.jpg", "b.jpg"]})
    _, found = carried(path, SourceColumns(columns={"filename": "filename"}))
    assert found == {"filename": ["a.jpg", "b.jpg"]}


def test_a_name_within_a_column_must_be_somewhere(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.jsonl", VALUES)
    with pytest.raises(SourceError, match=r"no column 'deep\.scor'"):
        carried(path, SourceColumns(columns={"x": "deep.scor"}))


def test_two_columns_of_one_name_are_not_one() -> None:
    with pytest.raises(ConfigurationError, match="would both be called 'a_b'"):
        parse_columns(["a-b,a_b"])
