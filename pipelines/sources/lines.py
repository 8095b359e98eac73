"""Readers of lines: JSON lines and lists of URLs, and the lines of any text file."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from typing import IO, cast

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.locate import open_url, unpack
from gristmill.pipelines.patience import is_of_content
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.add_rows import (
    add_addressed,
    add_broken,
    add_mapped,
    address_row,
    names_file,
    text_row,
)
from gristmill.pipelines.sources.columns import (
    ColumnMap,
    has_ids,
    is_found,
    without_address,
    without_text,
)
from gristmill.pipelines.sources.json_tables import is_coco, rows_of_object
from gristmill.pipelines.sources.reasons import NOT_UTF8
from gristmill.pipelines.sources.row_builder import RowBuilder
from gristmill.pipelines.sources.values import BrokenJson, load_json, load_object

# Lines that are looked at to know the names in a file of JSON lines, of which any may lack some.
HEAD_LINES = 10_000
# Bytes that do not decode, as Python keeps them.
_UNDECODED = re.compile("[\udc80-\udcff]")
_SPACES = re.compile(r"\s*")
_HEAD = 2**16
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip


class Lines:
    """Lines of a UTF-8 file (packed or not), with their ends, without NUL characters.

    Bytes that are not UTF-8 are kept as lone surrogates (see `is_utf8`), for the reader to fail
    that row; a file with many such lines is in another encoding, which is a `SourceError`.
    """

    def __init__(self, url: str) -> None:
        self.url, self.number = url, 0
        # Lines that are not UTF-8, and that are and not only ASCII.
        self.bad = self._good = self._first_bad = 0
        self._encoding = "latin1"

    def __iter__(self) -> Generator[str, None, None]:
        with open_url(self.url) as file:
            raw = cast("io.RawIOBase", unpack(file) or file)
            buffered = io.BufferedReader(raw, _HEAD)
            try:
                self._check_encoding(buffered.peek(_HEAD))
                text = io.TextIOWrapper(
                    cast("IO[bytes]", buffered), "utf-8-sig", "surrogateescape", newline=""
                )
                for line in text:
                    self.number += 1
                    if not line.isascii():
                        self._look_at(line)
                    yield line.replace("\0", "")
            except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError) as error:
                if isinstance(error, OSError) and not is_of_content(error):
                    raise
                raise SourceError(
                    f"{self.url} cannot be unpacked after line {self.number} ({error}); it is cut "
                    "off or damaged: fetch it again"
                ) from error
        if self.bad > self._good and self.bad * 5 >= self.number:
            raise self.not_utf8(self._first_bad)

    def not_utf8(self, line: int) -> SourceError:
        """The error of a file in another encoding."""
        return SourceError(
            f"{self.url} is not UTF-8 in line {line}; convert it first, from what it is in, e.g. "
            f"iconv -f {self._encoding} -t utf-8 FILE > NEW"
        )

    def _look_at(self, line: str) -> None:
        if is_utf8(line):
            self._good += 1
            return
        self.bad += 1
        self._first_bad = self._first_bad or self.number
        if re.search("[\udc80-\udc9f]", line):
            self._encoding = "windows-1252"

    def _check_encoding(self, head: bytes) -> None:
        marks = _BYTE_ORDER_MARKS.items()
        found = next((name for mark, name in marks if head.startswith(mark)), "")
        if not found and head.count(0) * 4 > len(head):
            found = "UTF-16LE" if head[1::2].count(0) > head[::2].count(0) else "UTF-16BE"
        if found:
            raise SourceError(
                f"{self.url} is {found}, not UTF-8; convert it first: "
                f"iconv -f {found} -t utf-8 FILE > NEW"
            )


def is_utf8(line: str) -> bool:
    """Whether all bytes of a line did decode."""
    return line.isascii() or _UNDECODED.search(line) is None


def read_json_lines(url: str, columns: ColumnMap, rows: RowBuilder) -> Iterator[pa.Table]:
    """Rows of JSON lines, of an array of objects, or of an object that holds a table; a line that
    is not JSON becomes a failed row."""
    for values in objects_of(url, rows, FAILED_TO_DOWNLOAD):
        if values is not None:
            add_mapped(rows, columns.of(values), values)
        yield from rows.take()
    yield from rows.take(all_rows=True)


def values_of(url: str) -> Iterator[str]:
    """The JSON values of a file as texts: one a line, or those of the array that it is, or the rows
    of the object that a .json file is."""
    if is_array(url):
        return elements_of(url)
    held = object_in(url)
    if held is not None:
        return map(json.dumps, rows_of_object(held))
    return (line for line in Lines(url) if line.strip())


def json_format(url: str) -> str:
    """What a .json file is: `coco`, or rows in whichever form, `jsonl`. Raises `SourceError` if it
    is no JSON."""
    if is_array(url):
        return "jsonl"
    held = object_in(url)
    if held == {}:
        raise SourceError(f"{url} is JSON, but neither holds rows nor a COCO captions file")
    if held is not None:
        return "coco" if is_coco(held) else "jsonl"
    for line in values_of(url):
        with contextlib.suppress(BrokenJson):
            object_of(line)
            return "jsonl"
        break
    raise SourceError(
        f"{url} is neither JSON nor lines of JSON; it may be cut off or damaged: fetch it again"
    )


def is_array(url: str) -> bool:
    """Whether a file is one JSON array, and not lines of JSON, each of which may be one."""
    return _is_one_value(url, "[")


def _is_one_value(url: str, sign: str) -> bool:
    """Whether a file is one JSON value that begins so, and not lines of JSON."""
    first = list(itertools.islice((line for line in Lines(url) if line.strip()), 2))
    if not first or not first[0].lstrip().startswith(sign):
        return False
    try:
        load_json(first[0])
    except BrokenJson:
        return True
    return len(first) == 1


def object_in(url: str) -> Mapping[str, object] | None:
    """The JSON object that a .json file is; None for lines, and for other endings, where a line
    alone is a row."""
    if not re.search(r"\.json(\.\w+)?$", url.lower()) or not _is_one_value(url, "{"):
        return None
    with contextlib.suppress(BrokenJson):
        return load_object("".join(Lines(url)))
    return None


def elements_of(url: str) -> Iterator[str]:
    """The values of a JSON array as texts, as many at a time in memory as its lines make needful.
    Raises `SourceError` where it is none any more."""
    lines, decoder = iter(Lines(url)), json.JSONDecoder()
    held, at, opened = "", 0, False
    while True:
        at = _skipped(held, at)
        sign = held[at : at + 1]
        if sign and sign in ("," if opened else "["):
            opened, at = True, at + 1
            continue
        if sign == "]" and opened:
            if held[at + 1 :].strip() or any(line.strip() for line in lines):
                raise SourceError(f"{url} goes on after the JSON array that it begins with")
            return
        end = 0
        if sign and opened:
            with contextlib.suppress(ValueError, RecursionError):
                end = decoder.raw_decode(held, at)[1]
        # A number may go on, and anything else may not be whole yet.
        if end == 0 or end == len(held):
            # As much again, so that what is broken is not tried at every line.
            more = _some(lines, max(_HEAD, len(held) - at))
            if more:
                held, at = held[at:] + more, 0
                continue
        if end == 0:
            raise SourceError(
                f"{url} is no whole JSON array: it cannot be read from {held[at : at + 40]!r} on; "
                "it is cut off or damaged"
            )
        yield held[at:end]
        at = end


def _skipped(text: str, at: int) -> int:
    """Where what is no space begins."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _some(lines: Iterator[str], size: int) -> str:
    """Lines of so many characters together, fewer at the end."""
    found, length = [], 0
    for line in lines:
        found.append(line)
        length += len(line)
        if length >= size:
            break
    return "".join(found)


def objects_of(url: str, rows: RowBuilder, status: str) -> Iterator[dict[str, object] | None]:
    """The JSON objects of a file, as `values_of` finds them. What is none is added to `rows`,
    failed with `status`, and gives None, so that such rows can be taken as they come."""
    for line in values_of(url):
        try:
            values = object_of(line)
        except BrokenJson as error:
            add_broken(rows, line, status, str(error))
            yield None
        else:
            yield values


def object_of(line: str) -> dict[str, object]:
    """The JSON object of a line. Raises `BrokenJson` with the reason if there is none."""
    if not is_utf8(line):
        raise BrokenJson(NOT_UTF8)
    return load_object(line)


def check_json_lines(url: str, columns: ColumnMap, rows: RowBuilder) -> None:
    """Raise `SourceError` if none of the first lines has an address or a file's name, or what was
    named."""
    names: dict[str, None] = {}
    for line in itertools.islice(values_of(url), HEAD_LINES):
        try:
            values = object_of(line)
        except BrokenJson:
            continue
        names |= dict.fromkeys(values)
        if columns.absent(names) is not None:
            continue
        found = columns.of(names)
        if rows.kind == "text":
            known = is_found(found, rows.kind)
        else:
            known = "url" in found or has_ids(found, names, rows.kind)
            known = known or names_file(columns.of(values), values, rows.kind)
        if known:
            return
    if names:
        columns.check_given(list(names), url)
        if rows.kind == "text":
            raise SourceError(without_text(url, list(names)))
        raise SourceError(without_address(url, "URL", list(names)))


def first_objects(url: str, count: int = 100) -> list[dict[str, object]]:
    """The JSON objects among the first lines of a file."""
    found = []
    for line in itertools.islice(values_of(url), count):
        try:
            found.append(object_of(line))
        except BrokenJson:
            continue
    return found


def read_url_list(url: str, rows: RowBuilder) -> Iterator[pa.Table]:
    """Rows of a text file with one URL, one file's name or, of texts, one text a line."""
    for line in Lines(url):
        text = line.strip()
        if text and not is_utf8(text):
            add_broken(rows, text, FAILED_TO_DOWNLOAD, NOT_UTF8)
        elif text and rows.kind == "text":
            rows.add(text_row(text).saying({"caption": text}, {}))
        elif text:
            add_addressed(rows, address_row(rows, text), {}, {})
        yield from rows.take()
    yield from rows.take(all_rows=True)
