"""Parquet: rows of a damaged file are failed rows, two columns of one name an error."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import bytes_of, jpeg, read

from gristmill.errors import SourceError
from gristmill.pipelines.sources.source import Source


def test_rows_of_a_damaged_row_group_fail_and_the_others_do_not(tmp_path: Path) -> None:
    table = pa.table({"url": [f"http://h/{i}" for i in range(90)], "caption": ["words"] * 90})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=30, compression="snappy", use_dictionary=False)
    place = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = place.data_page_offset
    data[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(bytes(data))
    rows = read(path)
    assert len(rows) == 90 and len({row["uid"] for row in rows}) == 90
    assert [row["error"] for row in rows] == [
        "broken row group" if 30 <= i < 60 else None for i in range(90)
    ]


@pytest.mark.parametrize("name", ["url", "x", "caption"])
def test_two_columns_of_one_name_are_an_error(name: str, tmp_path: Path) -> None:
    names = ["url", name] if name == "url" else ["url", name, name]
    table = pa.Table.from_arrays([pa.array(["http://h/1"])] * len(names), names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    source = Source(path=str(tmp_path / "a.parquet"))
    for look in (source.check_columns, lambda: read(source.path)):
        with pytest.raises(SourceError, match=f"2 columns called '{name}'; rename or drop"):
            look()


def test_pictures_in_several_columns_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    cells = [[{"bytes": jpeg(i), "path": None}] for i in range(2)]
    pq.write_table(pa.table({"before": cells[0], "after": cells[1]}), path)
    with pytest.raises(SourceError, match=r"columns before, after; .*image=before"):
        read(path)
    assert bytes_of(read(path, columns={"image": "after"})) == [jpeg(1)]
    pq.write_table(pa.table({"mask": cells[0], "image": cells[1]}), path)
    assert bytes_of(read(path)) == [jpeg(1)]


@pytest.mark.parametrize(
    ("column", "kind"), [(["x"], "string"), ([1], "int64"), ([{"a": 1}], "struct<a: int64>")]
)
def test_a_column_without_bytes_is_no_column_of_pictures(
    column: list[object], kind: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"url": ["http://h/1"], "x": column}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=f"column 'x' holds {kind}, not the bytes of images"):
        read(tmp_path / "a.parquet", columns={"image": "x"})


def test_times_and_texts_beyond_python_do_not_end_a_run(tmp_path: Path) -> None:
    odd = {
        "far": pa.array([2**62, 5], pa.timestamp("us")),
        "zone": pa.array([1, 2], pa.timestamp("s", "Mars/Olympus")),
        "long": pa.array([2**62, 5], pa.duration("s")),
        "text": pa.array([b"\xff", b"ok"]).view(pa.string()),
        "texts": pa.ListArray.from_arrays([0, 1, 2], pa.array([b"\xff", b"ok"]).view(pa.string())),
    }
    for name, column in odd.items():
        table = pa.table({"url": ["http://h/1", "http://h/2"], "caption": ["a", "b"], name: column})
        pq.write_table(table, tmp_path / "a.parquet")
        assert [row["url"] for row in read(tmp_path / "a.parquet")] == ["http://h/1", "http://h/2"]
    assert [
        row["caption"] for row in read(tmp_path / "a.parquet", columns={"caption": "texts"})
    ] == [None, "ok"]
