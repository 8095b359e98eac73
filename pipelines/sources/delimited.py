"""Readers of CSV and TSV, in which no line is shifted, cut or swallowed without a word."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.add_rows import add_broken, add_mapped, names_file
from gristmill.pipelines.sources.columns import (
    ColumnMap,
    has_ids,
    is_found,
    without_address,
    without_text,
)
from gristmill.pipelines.sources.lines import HEAD_LINES, Lines, is_utf8
from gristmill.pipelines.sources.reasons import BROKEN_QUOTES, NOT_UTF8, wrong_cells
from gristmill.pipelines.sources.row_builder import RowBuilder
from gristmill.pipelines.sources.values import is_address

if TYPE_CHECKING:
    import _csv

_LONGEST_CELL = 16 * 2**20


def read_delimited(
    url: str, delimiter: str, columns: ColumnMap, rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of a CSV or TSV file; a line with other cells than the first comes in failed. A file
    whose first line holds a URL has no header."""
    with contextlib.closing(_Records(url, delimiter)) as records:
        yield from _rows(url, records, delimiter, columns, rows)


def _rows(
    url: str, records: _Records, delimiter: str, columns: ColumnMap, rows: RowBuilder
) -> Iterator[pa.Table]:
    first = next(records, None)
    if first is None:
        return
    headless, names, mapping = _header(url, first, delimiter, columns, rows)
    if headless:
        add_mapped(rows, mapping, dict(zip(names, first, strict=True)))
    for cells in records:
        reason = records.reason
        if len(cells) != len(names):
            reason = reason or wrong_cells(len(cells), len(names))
        if records.lines.bad and not all(map(is_utf8, cells)):
            reason = NOT_UTF8
        if reason:
            meta = {"cells": cells}
            add_broken(rows, cells, FAILED_TO_DOWNLOAD, reason, meta)
        else:
            add_mapped(rows, mapping, dict(zip(names, cells, strict=True)))
        yield from rows.take()
    yield from rows.take(all_rows=True)


def check_delimited(url: str, delimiter: str, columns: ColumnMap, rows: RowBuilder) -> None:
    """Raise `SourceError` if the first line names no column of addresses, or of files that are
    named in some of the first lines, or not what was named."""
    with contextlib.closing(_Records(url, delimiter)) as records:
        first = next(records, None)
        if first is None:
            return
        _, names, mapping = _header(url, first, delimiter, columns, rows)
        known = rows.kind == "text" or "url" in mapping or has_ids(mapping, names, rows.kind)
        if known or mapping["path"] in columns.given.values():
            return
        for cells in itertools.islice(records, HEAD_LINES):
            if names_file(mapping, dict(zip(names, cells, strict=False)), rows.kind):
                return
    raise SourceError(without_address(url, "URL", names))


class _Feed:
    """Lines for a csv reader, which can be given back; knows those of the present record."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: list[str] = []
        self.record: list[str] = []
        # Number of the line that was given last.
        self.number = 0
        # The file ended while a record was read.
        self.ended = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        try:
            line = self._back.pop() if self._back else next(self._lines)
        except StopIteration:
            self.ended = bool(self.record)
            raise
        self.number += 1
        self.record.append(line)
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        """Lines that are to be read again."""
        self._back += reversed(lines)
        self.number -= len(lines)


class _Records:
    """Cells of each record that is not blank. Raises `SourceError` for a quote that is never
    closed."""

    def __init__(self, url: str, delimiter: str) -> None:
        csv.field_size_limit(_LONGEST_CELL)
        self.url, self._delimiter = url, delimiter
        # TSV dumps of web text hold bare quotes; in CSV quotes quote.
        self._quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        self.lines = Lines(url)
        self._open = iter(self.lines)
        self._feed = _Feed(self._open)
        self._reader = self._parse(self._feed)
        # Why the last record cannot be taken, if so.
        self.reason: str | None = None

    def close(self) -> None:
        """Close the file, if it was not read to its end."""
        self._open.close()

    def _parse(self, lines: Iterator[str], *, strict: bool = False) -> _csv.Reader:
        return csv.reader(lines, delimiter=self._delimiter, quoting=self._quoting, strict=strict)

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> list[str]:
        while True:
            self._feed.record = []
            start = self._feed.number + 1
            self.reason = None
            try:
                cells = next(self._reader)
            except csv.Error as error:
                raise SourceError(
                    f"{self.url}, line {start}: {error}; if a quote opens there that is never "
                    "closed, close it, or double the quotes within cells"
                ) from error
            if self._feed.ended:
                raise self._open_quote(cells[-1])
            if len(self._feed.record) > 1 and self._is_torn():
                # A stray quote has swallowed lines that are records of their own.
                line, *others = self._feed.record
                self._feed.give_back(others)
                cells = next(self._parse(iter([line])))
                self.reason = BROKEN_QUOTES
            if any(cell.strip() for cell in cells) or len(cells) > 1:
                return cells

    def _is_torn(self) -> bool:
        """Whether what follows a closing quote is no delimiter."""
        try:
            next(self._parse(iter(self._feed.record), strict=True))
        except csv.Error:
            return True
        return False

    def _open_quote(self, cell: str) -> SourceError:
        held = sum(1 for _ in io.StringIO(cell, newline=""))
        return SourceError(
            f"{self.url}, line {self._feed.number - max(held, 1) + 1}: a quote opens there and is "
            "never closed, so that all lines after it would be one cell; close it, or double the "
            "quotes within cells"
        )


def _header(
    url: str, first: Sequence[str], delimiter: str, columns: ColumnMap, rows: RowBuilder
) -> tuple[bool, list[str], Mapping[str, str]]:
    """Whether the first line is a row already, the names of the cells, our column -> theirs."""
    if not all(map(is_utf8, first)):
        raise Lines(url).not_utf8(1)
    addresses = [i for i, cell in enumerate(first) if is_address(cell)]
    if not addresses:
        # Cells without a name, such as pandas writes for its index, are called by their place.
        names = [cell.strip() or str(i) for i, cell in enumerate(first)]
    else:
        names = [str(i) for i in range(len(first))]
        if not columns.given:
            columns = ColumnMap(_guess(url, first, addresses), rows.kind)
    mapping = columns.of_table(names, url)
    if not is_found(mapping, rows.kind) and not has_ids(mapping, names, rows.kind):
        if len(names) == 1:
            _refuse_other_delimiter(url, names[0], delimiter)
        if rows.kind == "text":
            raise SourceError(without_text(url, names))
        raise SourceError(without_address(url, "URL", names))
    return bool(addresses), names, mapping


def _refuse_other_delimiter(url: str, line: str, delimiter: str) -> None:
    """Raise `SourceError` for a first line whose names are parted by another sign."""
    other = max(",;\t|", key=line.count)
    if line.count(other):
        form = {",": "csv", "\t": "tsv"}.get(other)
        remedy = f"read it as {form}:{url}" if form else "write it with commas, as a .csv"
        raise SourceError(
            f"{url}: its first line is parted by {other!r}, not by {delimiter!r}; {remedy}"
        )


def _guess(url: str, cells: Sequence[str], addresses: Sequence[int]) -> dict[str, str]:
    """Columns of a file without header: an URL, and beside it a caption. Which of more they are
    cannot be told from one line."""
    if len(cells) > 2 or len(addresses) > 1:
        raise SourceError(
            f"{url} has no header and {len(cells)} columns; name them by their place: "
            f"--column url={addresses[0]} --column caption=NUMBER"
        )
    guess = {"url": str(addresses[0])}
    if len(cells) == 2:
        guess["caption"] = str(1 - addresses[0])
    return guess
