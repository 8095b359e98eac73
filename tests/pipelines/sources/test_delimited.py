"""CSV and TSV: no line is shifted, cut, merged or swallowed without a word."""

from __future__ import annotations

import codecs
import gzip
import itertools
from pathlib import Path

import pytest
from source_files import read

from gristmill.errors import SourceError
from gristmill.pipelines.sources.source import Source


def csv(folder: Path, text: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(text, newline="")
    return folder / name


@pytest.mark.parametrize(
    ("line", "cells"),
    [("http://h/1?c=1,2,a cat", 3), ("http://h/1", 1), ("http://h/1,a,,", 4), ("a cat", 1)],
)
def test_a_line_with_other_cells_than_the_header_fails_alone(
    line: str, cells: int, tmp_path: Path
) -> None:
    path = csv(tmp_path, f"url,caption\n{line}\n\nhttp://h/2,a dog\n")
    torn, whole = read(path)
    assert torn["error"] == f"row has {cells} cells, header has 2" and torn["caption"] is None
    assert torn["status"] == "failed_to_download" and line.split(",")[0] in torn["meta"]
    assert (whole["url"], whole["caption"], whole["error"]) == ("http://h/2", "a dog", None)


def test_a_line_of_a_table_without_header_is_held_to_the_first(tmp_path: Path) -> None:
    path = csv(tmp_path, "http://h/1\ta\nhttp://h/2\tb\tc\nhttp://h/3\n", "a.tsv")
    assert [row["error"] for row in read(path)] == [
        None, "row has 3 cells, header has 2", "row has 1 cells, header has 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('url,caption\nhttp://h/1,a\nhttp://h/2,"open\nhttp://h/3,c\n', 3),
        ('url,caption\nhttp://h/1,"two\nlines"\nhttp://h/2,"open', 4),
        ('url,caption\r\n"http://h/1,a\r\nhttp://h/2,b\r\n\r\n', 2),
        ('url,caption\nhttp://h/1,"fine"\nhttp://h/2,"a ""quoted"" word\n', 3),
    ],
)
def test_a_quote_that_is_never_closed_names_its_line(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"a\.csv, line {line}: a quote opens there"):
        read(csv(tmp_path, text))


def test_a_stray_quote_swallows_no_lines(tmp_path: Path) -> None:
    text = (
        'url,caption\nhttp://h/1,"a dog\nhttp://h/2,b\nhttp://h/3,"c, d"\n'
        'http://h/4,"two\nlines"\nhttp://h/5,5" of ""rain""\n'
    )
    rows = read(csv(tmp_path, text))
    assert [row["error"] for row in rows] == ["broken quotes", None, None, None, None]
    assert [row["caption"] for row in rows[1:]] == ["b", "c, d", "two\nlines", '5" of ""rain""']


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ("url,caption\nhttp://h/1,café\n".encode("latin1"), "iconv -f latin1 -t utf-8"),
        ("url,caption\nhttp://h/1,“cat”\n".encode("cp1252"), "iconv -f windows-1252"),
        ("url,café\nhttp://h/1,a\n".encode("latin1"), "line 1.*iconv -f latin1"),
        ("url,caption\nhttp://h/1,a\n".encode("utf-16"), "is UTF-16, .*iconv -f UTF-16"),
        ("url,caption\nhttp://h/1,a\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("url,caption\nhttp://h/1,a\n".encode("utf-16-be"), "iconv -f UTF-16BE"),
        (codecs.BOM_UTF32_LE + "url,c\n".encode("utf-32-le"), "iconv -f UTF-32"),
    ],
)
def test_another_encoding_is_refused_with_its_remedy(
    data: bytes, remedy: str, tmp_path: Path
) -> None:
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_bytes(data.replace(b",", b"\t") if name == "a.tsv" else data)
        with pytest.raises(SourceError, match=remedy):
            read(tmp_path / name)


def test_a_line_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    lines = [f"http://h/{i},cat {i}".encode() for i in range(40)]
    lines[7] = b"http://h/7,caf\xe9"
    (tmp_path / "a.csv").write_bytes(b"\n".join([b"\xef\xbb\xbfurl,caption", *lines]))
    rows = read(tmp_path / "a.csv")
    failed = {row["row"]: row["error"] for row in rows if row["error"]}
    assert len(rows) == 40 and failed == {7: "text is not UTF-8"}


@pytest.mark.parametrize("header", ["url,caption,caption", "url, caption ,caption", "url,url,x"])
def test_two_columns_of_one_name_are_an_error(header: str, tmp_path: Path) -> None:
    path = csv(tmp_path, f"{header}\nhttp://h/1,a,b\n")
    with pytest.raises(SourceError, match=r"2 columns called '(caption|url)'"):
        Source(path=str(path)).check_columns()
    with pytest.raises(SourceError, match="2 columns called"):
        read(path)


def test_columns_without_name_are_called_by_their_place(tmp_path: Path) -> None:
    row = read(csv(tmp_path, ",url,caption,\n0,http://h/1,a,x\n"))[0]
    assert row["caption"] == "a" and row["meta"] == '{"0": "0", "3": "x"}'


def test_a_table_without_header_is_not_guessed_beyond_two_columns(tmp_path: Path) -> None:
    lines = ["http://h/1\tlong words of one\tx", "http://h/2\ty\tlonger words of another"]
    for order in itertools.permutations(lines):
        path = csv(tmp_path, "\n".join(order), "a.tsv")
        with pytest.raises(SourceError, match=r"3 columns.*url=0 --column caption=NUMBER"):
            read(path)
        rows = read(path, columns={"url": "0", "caption": "2"})
        assert {row["caption"] for row in rows} == {"x", "longer words of another"}
    with pytest.raises(SourceError, match="--column url=0"):
        read(csv(tmp_path, "http://h/1,http://page/1\n"))


def test_a_packed_table_that_is_cut_says_so(tmp_path: Path) -> None:
    data = gzip.compress(
        b"url,caption\n" + b"".join(b"http://h/%d,a\n" % i for i in range(999)), mtime=0
    )
    (tmp_path / "a.csv.gz").write_bytes(data[:-90])
    with pytest.raises(SourceError, match=r"cannot be unpacked after line .* fetch it again"):
        read(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b" + data[300:])
    with pytest.raises(SourceError, match="cannot be unpacked"):
        read(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    ("name", "line", "remedy"),
    [("a.csv", "url;caption", "by ';', not by ','; write it with commas"),
     ("a.csv", "url\tcaption", "read it as tsv:"), ("a.tsv", "url,caption", "read it as csv:")],
)  # fmt: skip
def test_another_delimiter_is_named(name: str, line: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=remedy):
        Source(path=str(csv(tmp_path, f"{line}\n", name))).check_columns()
