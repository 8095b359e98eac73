"""JSON lines and lists of URLs: each line is a row, or a row with its reason."""

from __future__ import annotations

import bz2
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from source_files import read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"url": ', "broken json line"),
        (b"[]", "broken json line"),
        (b"[" * 5000, "broken json line"),
        (b'{"url": "http://h/1", "n": ' + b"9" * 5000 + b"}", "broken json line"),
        (b'{"url": "http://h/1", "url": "http://h/2"}', "two keys of one name"),
        (b'{"url": "http://h/1", "x": {"a": 1, "a": 2}}', "two keys of one name"),
        (b'{"url": "http://h/1", "caption": "caf\xe9"}', "text is not UTF-8"),
        (b'{"caption": "a"}', "no url"),
        (b'{"path": "own.png", "caption": "a"}', "local path, not a url"),
        (b'{"file_name": "own", "url": null}', "local path, not a url"),
        (b'{"url": null}', "no url"),
        (b'{"url": "  "}', "no url"),
        (b'{"url": ["http://h/1"]}', "url is not text"),
        (b'{"url": {"href": "http://h/1"}}', "url is not text"),
    ],
)
def test_a_line_that_is_no_row_has_its_reason(line: bytes, reason: str, tmp_path: Path) -> None:
    good = [b'{"url": "http://h/%d", "caption": "\xc3\xa4"}' % i for i in range(10, 30)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*good[:5], line, *good[5:]]))
    rows = read(tmp_path / "a.jsonl")
    failed = {row["row"]: row["error"] for row in rows if row["error"]}
    assert len(rows) == 21 and failed == {5: reason}


def test_what_is_nested_deeply_does_not_end_a_run(tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    (tmp_path / "a.jsonl").write_text(f'{{"url": "http://h/1", "x": {deep}}}\n')
    row = read(tmp_path / "a.jsonl")[0]
    assert "nested too deeply" in row["meta"] or row["error"] == "broken json line"


@pytest.mark.parametrize(
    "path",
    [
        "x.jpg",
        "pictures/a.png",
        "/data/a",
        "./a.jpg",
        "../a",
        "~/a",
        r"C:\pics\a.jpg",
        r"pics\a.gif",
    ],
)
def test_a_local_path_is_not_called_an_invalid_url(path: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(path)
    assert [row["error"] for row in read(tmp_path / "a.txt")] == ["local path, not a url"]


@pytest.mark.parametrize(
    "url", ["example.com/a.jpg", "//h/a.jpg", "ftp://h/a.jpg", "some words.jpg"]
)
def test_what_may_be_a_url_is_left_to_the_download(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(url)
    assert [(row["url"], row["error"]) for row in read(tmp_path / "a.txt")] == [(url, None)]


def test_packed_lines_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"url": f"http://h/{i}"}) + "\n" for i in range(5)).encode()
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(lines))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines))
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(lines)
    for ending in ("bz2", "xz", "zst"):
        assert len(read(tmp_path / f"a.jsonl.{ending}")) == 5
