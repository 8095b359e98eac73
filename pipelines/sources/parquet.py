"""Readers of Parquet, of URLs or with embedded pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import SourceError
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.patience import is_of_content
from gristmill.pipelines.schema import FAILED_TO_DECODE
from gristmill.pipelines.sources.add_rows import add_broken, add_bytes, add_mapped
from gristmill.pipelines.sources.columns import (
    ColumnMap,
    absent_column,
    check_repeated,
    has_ids,
    is_found,
    without_address,
    without_text,
)
from gristmill.pipelines.sources.pointer import parquet_pointer
from gristmill.pipelines.sources.reasons import BROKEN_ROW_GROUP, SEVERAL_IN_ROW
from gristmill.pipelines.sources.row_builder import RowBuilder
from gristmill.pipelines.sources.values import is_address

# Row groups are read together up to this many rows.
CHUNK_ROWS = 100_000
_BLOB_NAMES = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "bytes", "video", "mp4")


def parquet_chunks(url: str) -> list[tuple[int, int]]:
    """Ranges of row groups of about `CHUNK_ROWS` rows."""
    with open_url(url) as file:
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
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        raise SourceError(f"{url} is not a Parquet file: {error}") from error


def is_damage(error: Exception) -> bool:
    """Whether Arrow speaks of the file's content, rather than the storage of itself."""
    return not isinstance(error, OSError) or is_of_content(error)


def image_column(schema: pa.Schema) -> str | None:
    """The column that holds pictures: a struct with `bytes` as Hugging Face writes, a list of such,
    or binary; one of a usual name before others."""
    found = image_columns(schema)
    return next((name for name in (*_BLOB_NAMES, *found) if name in found), None)


def image_columns(schema: pa.Schema) -> list[str]:
    """All columns that may hold pictures."""
    return [
        field.name
        for field in schema
        if _holds_bytes_in_struct(_element(field.type))
        or (field.name in _BLOB_NAMES and _is_binary(_element(field.type)))
    ]


def _only_image(url: str, schema: pa.Schema) -> str | None:
    """The column that holds pictures. Raises `SourceError` if that may be either of several."""
    found = image_columns(schema)
    if len(found) > 1 and not set(found) & set(_BLOB_NAMES):
        raise SourceError(
            f"{url} has pictures in the columns {', '.join(found)}; name the one that is meant "
            f"with --column image={found[0]}"
        )
    return image_column(schema)


def _element(kind: pa.DataType) -> pa.DataType:
    """The type itself, or of what is in a list."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return kind.value_type if any(is_one(kind) for is_one in lists) else kind


def _holds_bytes(kind: pa.DataType) -> bool:
    return _is_binary(_element(kind)) or _holds_bytes_in_struct(_element(kind))


def _holds_bytes_in_struct(kind: pa.DataType) -> bool:
    index = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return index >= 0 and _is_binary(kind.field(index).type)


def _is_binary(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_one(kind) for is_one in kinds)


def read_parquet(
    url: str, groups: tuple[int, int], columns: ColumnMap, rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of some row groups; pictures in the file are hashed and pointed to, not carried."""
    with open_url(url) as opened:
        file = open_parquet(url, opened)
        schema = file.schema_arrow
        image, mapping = _parquet_mapping(url, schema, columns, rows)
        size = 64 if image is not None else 5_000
        for group in range(*groups):
            for row, values in enumerate(rows_of_group(file, group, size)):
                if values is None:
                    add_broken(rows, (url, group, row), FAILED_TO_DECODE, BROKEN_ROW_GROUP)
                elif image is None:
                    add_mapped(rows, mapping, values)
                else:
                    place = (url, group, row)
                    _add_embedded(rows, mapping, values, image, place, schema)
                yield from rows.take()
    yield from rows.take(all_rows=True)


def rows_of_group(
    file: pq.ParquetFile, group: int, batch_rows: int
) -> Iterator[dict[str, object] | None]:
    """The rows of a row group; None for each that cannot be read any more because it is damaged."""
    done = 0
    try:
        for batch in file.iter_batches(batch_rows, row_groups=[group]):
            for values in _plain_rows(batch):
                done += 1
                yield values
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
    # Some damage ends a row group without an error.
    for _ in range(done, file.metadata.row_group(group).num_rows):
        yield None


def _plain_rows(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """Rows as Python values; a text that is not UTF-8 as bytes, a time beyond Python's as text."""
    try:
        return list(batch.to_pylist(maps_as_pydicts="strict"))
    except (ValueError, OverflowError, ArithmeticError, KeyError):
        columns = [_plain_column(column) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _plain_column(column: pa.Array) -> list[object]:
    failures = (ValueError, OverflowError, ArithmeticError, KeyError)
    with contextlib.suppress(*failures):
        return list(column.to_pylist(maps_as_pydicts="strict"))
    with contextlib.suppress(*failures):
        # A map with two entries of one key: a mapping all the same.
        cells = column.to_pylist()
        whole = not pa.types.is_map(column.type)
        return [cell if whole or cell is None else {"entries": cell} for cell in cells]
    kind = _without_texts(column.type)
    if kind != column.type:
        return list(column.cast(kind).to_pylist())
    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowException:
        # A time in a zone that nobody knows, as the number that it is.
        return list(column.cast(pa.int64()).to_pylist())


def _without_texts(kind: pa.DataType) -> pa.DataType:
    """The type with bytes where it has texts."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_without_texts(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([(field.name, _without_texts(field.type)) for field in fields])
    if pa.types.is_dictionary(kind):
        return _without_texts(kind.value_type)
    return kind


def check_parquet(url: str, columns: ColumnMap, rows: RowBuilder) -> None:
    """Raise `SourceError` if the schema has neither addresses nor pictures, or not what was
    named."""
    with open_url(url) as opened:
        _parquet_mapping(url, open_parquet(url, opened).schema_arrow, columns, rows)


def _parquet_mapping(
    url: str, schema: pa.Schema, columns: ColumnMap, rows: RowBuilder
) -> tuple[str | None, dict[str, str]]:
    """The column that holds pictures, if any, and our column -> theirs for the others."""
    check_repeated(schema.names, url)
    columns.check_given(schema.names, url)
    if rows.kind == "text":
        mapping = dict(columns.of(schema.names))
        if not is_found(mapping, rows.kind):
            raise SourceError(without_text(url, schema.names))
        return None, mapping
    image = columns.given.get("image") or _only_image(url, schema)
    if image is not None and image not in schema.names:
        # What lies within a cell can be a caption, and no picture.
        raise SourceError(absent_column(url, image, schema.names))
    if image is not None and not _holds_bytes(schema.field(image).type):
        raise SourceError(
            f"{url}: column {image!r} holds {schema.field(image).type}, not the bytes of "
            f"{rows.kind}s"
        )
    others = ColumnMap({k: v for k, v in columns.given.items() if k != "image"}, rows.kind)
    mapping = dict(others.of(name for name in schema.names if name != image))
    found = {"url", "path"} & set(mapping) or has_ids(mapping, schema.names, rows.kind)
    if image is None and not found:
        raise SourceError(without_address(url, f"URL or {rows.kind}", schema.names))
    return image, mapping


def _add_embedded(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    image: str,
    place: tuple[str, int, int],
    schema: pa.Schema,
) -> None:
    cell, kind, path = values[image], schema.field(image).type, image
    others = {name: value for name, value in values.items() if name != image}
    if isinstance(cell, list):
        if len(cell) > 1:
            content = (*place, sorted(others.items(), key=str))
            add_broken(rows, content, FAILED_TO_DECODE, SEVERAL_IN_ROW, others)
            return
        cell, kind, path = cell[0] if cell else None, _element(kind), f"{image}[0]"
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    assert data is None or isinstance(data, bytes)
    name = cell.get("path") if isinstance(cell, dict) else None
    if data is None and isinstance(name, str) and (rows.is_wanted(name) or is_address(name)):
        # Pictures that were not put into the table, only named.
        add_mapped(rows, {**mapping, "path": image}, {**others, image: name})
        return
    if pa.types.is_struct(kind):
        path += ".bytes"
    add_bytes(rows, mapping, others, data, parquet_pointer(*place, path))
