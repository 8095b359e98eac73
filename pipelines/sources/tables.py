"""Readers of tables: Parquet (of URLs or with embedded pictures), CSV, TSV, JSON lines, URL
lists."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import SourceError
from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, normalise_url
from gristmill.pipelines.sources.pointer import parquet_pointer
from gristmill.pipelines.sources.row_builder import (
    RowBuilder,
    SourceRow,
    absent_column,
    url_row,
    without_address,
)

if TYPE_CHECKING:
    import _csv

# Row groups are read together up to this many rows.
CHUNK_ROWS = 100_000
# Lines that are looked at to know the names in a file of JSON lines, of which any may lack some.
HEAD_LINES = 100
_BLOB_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "video", "mp4")


def parquet_chunks(url: str) -> list[tuple[int, int]]:
    """Ranges of row groups of about `CHUNK_ROWS` rows."""
    with fsspec.open(url, "rb") as file:
        metadata = open_parquet(url, file).metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    chunks, start, rows = [], 0, 0
    for i, size in enumerate(sizes):
        rows += size
        if rows >= CHUNK_ROWS:
            chunks.append((start, i + 1))
            start, rows = i + 1, 0
    if start < len(sizes):
        chunks.append((start, len(sizes)))
    return chunks


def open_parquet(url: str, file: IO[bytes]) -> pq.ParquetFile:
    """A Parquet file, or a `SourceError` that names it."""
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{url} is not a Parquet file: {error}") from error


def image_column(schema: pa.Schema) -> str | None:
    """The column that holds pictures: a struct with `bytes` as Hugging Face writes, or binary."""
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    for name in _BLOB_NAMES:
        index = schema.get_field_index(name)
        if index >= 0 and _is_binary(schema.field(index).type):
            return name
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_parquet(
    url: str, groups: tuple[int, int], columns: Mapping[str, str], rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of some row groups; pictures in the file are hashed and pointed to, not carried."""
    with fsspec.open(url, "rb") as opened:
        file = open_parquet(url, opened)
        schema = file.schema_arrow
        image, mapping = _parquet_mapping(url, schema, columns, rows)
        for group in range(*groups):
            row = 0
            size = 64 if image is not None else 5_000
            for batch in file.iter_batches(size, row_groups=[group]):
                for values in batch.to_pylist():
                    if image is None:
                        add_mapped(rows, mapping, values)
                    else:
                        _add_embedded(rows, mapping, values, image, url, group, row, schema)
                    row += 1
                yield from rows.take()
    yield from rows.take(all_rows=True)


def check_parquet(url: str, columns: Mapping[str, str], rows: RowBuilder) -> None:
    """Raise `SourceError` if the schema has neither addresses nor pictures, or not what was
    named."""
    with fsspec.open(url, "rb") as opened:
        _parquet_mapping(url, open_parquet(url, opened).schema_arrow, columns, rows)


def _parquet_mapping(
    url: str, schema: pa.Schema, columns: Mapping[str, str], rows: RowBuilder
) -> tuple[str | None, dict[str, str]]:
    """The column that holds pictures, if any, and our column -> theirs for the others."""
    image = columns.get("image")
    if image is not None and image not in schema.names:
        raise SourceError(absent_column(url, image, schema.names))
    image = image or image_column(schema)
    named = {ours: theirs for ours, theirs in columns.items() if ours != "image"}
    mapping = rows.map_columns(named, [n for n in schema.names if n != image], url)
    if image is None and "url" not in mapping and "path" not in mapping:
        raise SourceError(without_address(url, f"URL or {rows.kind}", schema.names))
    return image, mapping


def _add_embedded(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: dict[str, object],
    image: str,
    url: str,
    group: int,
    row: int,
    schema: pa.Schema,
) -> None:
    cell = values.pop(image)
    struct = pa.types.is_struct(schema.field(image).type)
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    assert data is None or isinstance(data, bytes)
    pointer = parquet_pointer(url, group, row, f"{image}.bytes" if struct else image)
    add_bytes(rows, mapping, values, data, pointer)


def add_bytes(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    data: bytes | None,
    pointer: str | None,
) -> None:
    """Add a row whose picture lies in the source: known by its URL if it has one, else its
    bytes."""
    facts, meta = _mapped(mapping, values)
    url = facts.get("url")
    if data is None:
        spoken = repr(sorted(values.items(), key=str))
        row = SourceRow(
            kind="bytes",
            locator=hashlib.sha256(spoken.encode()).hexdigest(),
            status=FAILED_TO_DECODE,
            error=f"no {rows.kind}",
        )
    else:
        digest = hashlib.sha256(data).hexdigest()
        row = SourceRow(kind="bytes", locator=digest, sha256=digest, pointer=pointer)
    if url:
        row = replace(row, kind="url", locator=normalise_url(str(url)), url=str(url))
    rows.add(row.saying(facts, meta))


def add_mapped(rows: RowBuilder, mapping: Mapping[str, str], values: Mapping[str, object]) -> None:
    """Add a row that names a URL."""
    facts, meta = _mapped(mapping, values)
    path = facts.get("path")
    if path is not None and facts.get("url") is None:
        meta[mapping["path"]] = path
    rows.add(url_row(facts.get("url")).saying(facts, meta))


def _mapped(
    mapping: Mapping[str, str], values: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """What is said under our names, and what else is said."""
    facts = {ours: values.get(theirs) for ours, theirs in mapping.items()}
    used = set(mapping.values())
    return facts, {name: value for name, value in values.items() if name not in used}


def read_delimited(
    url: str, delimiter: str, columns: Mapping[str, str], rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of a CSV or TSV file. A file whose first line holds a URL has no header."""
    reader = _cells(url, delimiter)
    try:
        first = next(reader, None)
        if first is None:
            return
        headless, names, mapping = _header(url, first, columns, rows)
        for cells in [first] if headless else []:
            add_mapped(rows, mapping, dict(zip(names, cells, strict=False)))
        for cells in reader:
            if cells:
                add_mapped(rows, mapping, dict(zip(names, cells, strict=False)))
                yield from rows.take()
    except csv.Error as error:
        raise SourceError(f"{url}, line {reader.line_num}: {error}") from error
    yield from rows.take(all_rows=True)


def check_delimited(url: str, delimiter: str, columns: Mapping[str, str], rows: RowBuilder) -> None:
    """Raise `SourceError` if the first line names no column of addresses, or not what was named."""
    try:
        first = next(_cells(url, delimiter), None)
    except csv.Error as error:
        raise SourceError(f"{url}, line 1: {error}") from error
    if first is not None:
        _header(url, first, columns, rows)


def _cells(url: str, delimiter: str) -> _csv.Reader:
    """A reader of a file's lines as cells."""
    csv.field_size_limit(16 * 2**20)
    if delimiter == "\t":
        # TSV dumps of web text hold bare quotes; in CSV quotes quote.
        return csv.reader(read_lines(url), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(read_lines(url), delimiter=delimiter)


def _header(
    url: str, first: Sequence[str], columns: Mapping[str, str], rows: RowBuilder
) -> tuple[bool, list[str], dict[str, str]]:
    """Whether the first line is a row already, the names of the cells, our column -> theirs."""
    headless = any(cell.strip().lower().startswith(("http://", "https://")) for cell in first)
    names = [str(i) for i in range(len(first))] if headless else [c.strip() for c in first]
    given = dict(columns)
    if headless and not given:
        given = _guess(first)
    mapping = rows.map_columns(given, names, url)
    if "url" not in mapping:
        raise SourceError(without_address(url, "URL", names))
    return headless, names, mapping


def _guess(cells: Sequence[str]) -> dict[str, str]:
    """Columns of a file without header: the URL, and the longest of the others is the caption."""
    url = next(i for i, cell in enumerate(cells) if cell.strip().lower().startswith("http"))
    others = [i for i in range(len(cells)) if i != url]
    guess = {"url": str(url)}
    if others:
        guess["caption"] = str(max(others, key=lambda i: len(cells[i])))
    return guess


def read_json_lines(url: str, columns: Mapping[str, str], rows: RowBuilder) -> Iterator[pa.Table]:
    """Rows of JSON lines; a line that is not JSON becomes a failed row."""
    mapping: dict[str, str] | None = None
    for line in read_lines(url):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            digest = hashlib.sha256(line.encode("utf-8", "replace")).hexdigest()
            rows.add(
                SourceRow(
                    kind="bytes",
                    locator=digest,
                    status=FAILED_TO_DOWNLOAD,
                    error="broken json line",
                )
            )
            continue
        if mapping is None or not set(mapping.values()) <= values.keys():
            mapping = rows.map_columns(columns if mapping is None else {}, list(values), url)
        add_mapped(rows, mapping, values)
        yield from rows.take()
    yield from rows.take(all_rows=True)


def check_json_lines(url: str, columns: Mapping[str, str], rows: RowBuilder) -> None:
    """Raise `SourceError` if none of the first lines has an address, or what was named."""
    objects = first_objects(url)
    if objects:
        names = list(dict.fromkeys(name for values in objects for name in values))
        if "url" not in rows.map_columns(columns, names, url):
            raise SourceError(without_address(url, "URL", names))


def first_objects(url: str) -> list[dict[str, object]]:
    """The JSON objects among the first lines of a file."""
    found = []
    for line in itertools.islice(read_lines(url), HEAD_LINES):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def read_url_list(url: str, rows: RowBuilder) -> Iterator[pa.Table]:
    """Rows of a text file with one URL a line."""
    for line in read_lines(url):
        if line.strip():
            rows.add(url_row(line.strip()))
            yield from rows.take()
    yield from rows.take(all_rows=True)


def read_lines(url: str) -> Iterator[str]:
    """Lines of a UTF-8 file (gzip and the like by ending), without NUL characters."""
    with fsspec.open(url, "rb", compression="infer") as file:
        buffered = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        number = 0
        try:
            for line in buffered:
                number += 1
                yield line.replace("\0", "")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{url} is not UTF-8 after line {number} ({error.reason}); convert it first, "
                "e.g. iconv -f latin1 -t utf-8"
            ) from error
