"""Names that people have: usable, or failed rows, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import bytes_of, jpeg, read, write_tar

from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source import Source

SOURCES = ["u[1].parquet", "a,b.parquet", "c::d.parquet", "h#1.parquet", "x?.parquet", "s*.parquet",
           "ä b%20.parquet", "a, b,c.parquet"]  # fmt: skip
PICTURES = [
    "a::b.png",
    "12:30:05.jpg",
    "h#1.jpg",
    "u[1].jpg",
    "a,b.jpg",
    r"a\b.jpg",
    "c?.jpg",
    "50%.jpg",
]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("form", ["{0}", "parquet:{0}", "{0},plain.parquet", "plain.parquet,{0}"])
def test_a_source_may_be_called_anything(name: str, form: str, tmp_path: Path) -> None:
    rows = pa.table({"image": [jpeg(i) for i in range(3)], "caption": ["a", "b", "c"]})
    pq.write_table(rows, tmp_path / name)
    pq.write_table(rows, tmp_path / "plain.parquet")
    path = form.format(f"{tmp_path}/{name}").replace("plain", f"{tmp_path}/plain")
    found = read(path)
    assert len(found) == (6 if "plain" in form else 3)
    assert bytes_of(found)[:3] == [jpeg(i) for i in range(3)]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_may_be_called_anything(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "h#1[a],b::c"
    folder.mkdir()
    (folder / name).write_bytes(jpeg(1))
    (folder / f"{name.rpartition('.')[0]}.txt").write_text("a caption")
    (row,) = read(folder)
    assert row["caption"] == "a caption" and bytes_of([row]) == [jpeg(1)]
    document = {"images": [{"id": 1, "file_name": name}], "annotations": []}
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert bytes_of(read(f"coco:{tmp_path}/c.json", images=str(folder))) == [jpeg(1)]


@pytest.mark.parametrize("name", ["a::b", "u[1]", "h#1", "a,b"])
@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_a_tar_may_be_called_anything(name: str, ending: str, tmp_path: Path) -> None:
    mode = "w" if ending == "tar" else "w:gz"
    write_tar(tmp_path / f"{name}.{ending}", [("0.jpg", jpeg(0)), ("1.jpg", "0.jpg")], mode)
    assert bytes_of(read(tmp_path / f"{name}.{ending}")) == [jpeg(0)] * 2
    assert bytes_of(read(tmp_path)) == [jpeg(0)] * 2


def test_a_column_may_be_called_anything(tmp_path: Path) -> None:
    for name in ("my#1/2.image", "a.b"):
        pq.write_table(pa.table({name: [jpeg(0), jpeg(1)]}), tmp_path / "h#1.parquet")
        assert bytes_of(read(tmp_path / "h#1.parquet", columns={"image": name})) == [
            jpeg(0),
            jpeg(1),
        ]


def test_names_that_are_not_utf8_are_failed_rows(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", b"good.jpg", b"\xff/1.jpg"):
        path = os.path.join(os.fsencode(tmp_path), b"pictures", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(jpeg())
    rows = read(tmp_path / "pictures")
    reasons = [row["error"] for row in rows]
    assert reasons == [None if row["pointer"] else "file name is not UTF-8" for row in rows]
    assert reasons.count(None) == 1 and len({row["uid"] for row in rows}) == 3


def test_sources_whose_names_are_not_utf8_are_failed_rows(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xe9")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tables").mkdir()
    write_tar(tmp_path / "tars" / f"{odd}.tar", [("0.jpg", jpeg())])
    pq.write_table(pa.table({"image": [jpeg()]}), tmp_path / "a.parquet")
    shutil.move(tmp_path / "a.parquet", tmp_path / "tables" / f"{odd}.parquet")
    for path in (tmp_path / "tars", tmp_path / "tables", f"{tmp_path}/tars/*.tar"):
        assert [row["error"] for row in read(path)] == ["file name is not UTF-8"]
        json.dumps(Source(path=str(path)).manifest(), ensure_ascii=False).encode()
    with pytest.raises(ConfigurationError, match="not UTF-8; rename it"):
        Source(path=f"{tmp_path}/tars/{odd}.tar").check()


def test_pages_may_be_called_anything(tmp_path: Path) -> None:
    for name in ("a::b.html", "u[1].html", os.fsdecode(b"\xe9.html")):
        (tmp_path / name).write_text("<p>x</p>")
    source = DocumentSource(path=f"folder:{tmp_path}")
    rows = [r for c in source.chunks() for t in source.read(c) for r in t.to_pylist()]
    assert sorted(str(row["error"]) for row in rows) == ["None", "None", "file name is not UTF-8"]


def test_dot_files_are_no_shards_and_are_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://h/1"], "caption": ["a"]}), tmp_path / "0.parquet")
    for name in ("._0.parquet", "_SUCCESS", ".0.parquet.crc", "_metadata", "notes.md", "b.csv"):
        (tmp_path / name).write_bytes(b"\0\5")
    for path in (tmp_path, f"{tmp_path}/*.parquet", f"parquet:{tmp_path}"):
        assert len(read(path)) == 1
    (note,) = Source(path=str(tmp_path)).notes()
    assert "2 hidden files" in note and "1 .csv" in note and "1 .md" in note and "2 without" in note


def test_members_of_no_sample_are_counted(tmp_path: Path) -> None:
    members = [("._0.jpg", b"x"), ("0.jpg", jpeg()), ("README", b"x"), ("1.jpg", jpeg())]
    path = write_tar(tmp_path / "a.tar", members)
    assert len(read(path)) == 2
    assert "2 dot files or names without ending" in Source(path=str(path)).notes()[0]


@pytest.mark.parametrize("ending", [".tar", ".csv", ".jsonl"])
def test_dot_files_of_other_formats(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"._0{ending}").write_bytes(b"\0\5")
    if ending == ".tar":
        write_tar(tmp_path / "0.tar", [("0.jpg", jpeg())])
    else:
        text = "url,caption\nhttp://h/1,a\n" if ending == ".csv" else '{"url": "http://h/1"}\n'
        (tmp_path / f"0{ending}").write_text(text)
    kind = {".tar": "tars", ".csv": "csv", ".jsonl": "jsonl"}[ending]
    assert len(read(f"{kind}:{tmp_path}")) == 1
    with pytest.raises(SourceError, match="no file matches"):
        read(f"{tmp_path}/x*{ending}")


def test_a_folder_may_be_called_like_a_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.csv").mkdir()
    write_tar(tmp_path / "y.tar", [("0.jpg", jpeg())])
    (tmp_path / "y.csv").write_text("url,caption\nhttp://h/1,a\n")
    assert len(read(tmp_path)) == len(read(f"csv:{tmp_path}")) == 1
