"""What lies at a path, by name, ending and content."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from gristmill.errors import SourceError
from gristmill.pipelines.sources.formats import detect, expand, img2dataset_pairs, split_paths
from gristmill.pipelines.sources.source import Source


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_endings_and_what_a_parquet_holds(here: Path) -> None:
    for name, found in (("a.csv.gz", "csv"), ("A.JSONL", "jsonl"), ("a.tgz", "tars")):
        assert detect("auto", name) == [(found, name)]
    pq.write_table(pa.table({"url": ["http://h/1"]}), "urls.parquet")
    pq.write_table(pa.table({"image": [b"\xff\xd8"], "caption": ["a"]}), "pictures.parquet")
    assert detect("auto", "urls.parquet") == [("parquet", "urls.parquet")]
    assert detect("auto", "pictures.parquet") == [("hf", "pictures.parquet")]
    assert detect("txt", "list.odd") == [("txt", "list.odd")]
    (here / "list.odd").write_bytes(b"\0")
    with pytest.raises(SourceError, match=r"write e\.g\. csv:list\.odd"):
        detect("auto", "list.odd")


def test_json_is_coco_or_rows_or_refused(here: Path) -> None:
    (here / "coco.json").write_text(json.dumps({"images": [], "annotations": []}))
    (here / "lines.json").write_text('{"url": "http://h/1"}\n{"url": "http://h/2"}\n')
    (here / "table.json").write_text('{"info": {},\n "annotations": [{"url": "http://h/1"}]}')
    (here / "broken.json").write_text('{"url": "http://h/1", ')
    assert detect("auto", "coco.json") == [("coco", "coco.json")]
    assert detect("auto", "lines.json") == [("jsonl", "lines.json")]
    assert detect("auto", "table.json") == [("jsonl", "table.json")]
    with pytest.raises(SourceError, match="neither JSON nor lines of JSON"):
        detect("auto", "broken.json")


def test_folders_are_what_is_in_them(here: Path) -> None:
    for name in ("plain/1.jpg", "tars/0.tar", "both/0.tar", "both/0.parquet", "both/1.tar"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(b"")
    assert detect("auto", "plain") == [("folder", "plain")]
    assert [kind for kind, _ in detect("auto", "tars")] == ["tars"]
    assert detect("auto", "both") == [("img2dataset", "both")]
    pairs = img2dataset_pairs("both")
    assert [[path.rpartition("/")[2] for path in pair] for pair in pairs] == [
        ["0.tar", "0.parquet"]
    ]


def test_paths_of_several_storages_are_told_apart(here: Path) -> None:
    """`a.csv,https` is no storage, and was a traceback."""
    for name in ("a.csv", "b,c.csv"):
        (here / name).write_text("url\n")
    listed = "b,c.csv,a.csv,https://h/b.csv"
    found = split_paths(listed, lambda path: ("auto", path))
    assert found == ["b,c.csv", "a.csv", "https://h/b.csv"]


def test_globs_are_sorted_and_must_match(here: Path) -> None:
    for name in ("b.csv", "a.csv", "c.tsv"):
        (here / name).write_text("url\n")
    assert [path.rpartition("/")[2] for path in expand("*.csv")] == ["a.csv", "b.csv"]
    for path in ("*.parquet", "nothing.csv"):
        with pytest.raises(SourceError):
            expand(path)


@pytest.mark.parametrize("path", ["a.csv", "*.csv", "b,c.csv", "."])
def test_a_storage_that_fails_is_no_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """fsspec's own `exists`, `isdir` and `glob` say no, and leave out what they cannot list. Who
    reads the source tries again."""
    for name in ("a.csv", "b,c.csv"):
        (tmp_path / name).write_text("url\nhttp://h/1\n")
    source = Source(path=str(tmp_path / path))
    assert source.manifest()

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(5, "the share is away")

    for method in ("ls", "info"):
        monkeypatch.setattr(LocalFileSystem, method, fails)
    with pytest.raises(OSError, match="the share is away"):
        source.manifest()
