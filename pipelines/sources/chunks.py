"""Pieces of a source that can be read on their own, and about how many rows they have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from gristmill.pipelines.locate import locate, open_url, unpack
from gristmill.pipelines.sources.lines import elements_of, is_array, object_in, values_of
from gristmill.pipelines.sources.parquet import open_parquet

# Bytes whose lines are counted to estimate those of a file.
_HEAD = 8 * 2**20
# Objects of a JSON array that tell how long the others are.
_ELEMENTS = 1_000


@dataclass(frozen=True)
class Chunk:
    """A piece of a source that can be read on its own."""

    format: str
    # Files (full URLs), or names below the folder.
    files: tuple[str, ...]
    # Row groups of a Parquet file.
    groups: tuple[int, int] = (0, 0)
    # Its first rows only; 0: all.
    rows: int = 0
    # Where the files that it names lie among the places of the source; empty if there is one.
    place: str = ""


_T = TypeVar("_T")


def spread(found: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of them, first and last among these, in their order."""
    places = min(len(found), count)
    chosen = sorted({round(i * (len(found) - 1) / max(places - 1, 1)) for i in range(places)})
    return [found[i] for i in chosen]


def first_rows(tables: Iterator[pa.Table], count: int) -> Iterator[pa.Table]:
    """The first `count` rows of tables."""
    for table in tables:
        yield table.slice(0, count)
        count -= min(count, len(table))
        if not count:
            return


def rows_of(chunk: Chunk) -> int | None:
    """Rows of a chunk, by what is written about it, or by the length of its first lines."""
    path = chunk.files[-1]
    if chunk.format == "folder":
        return len(chunk.files) - 1
    if chunk.format in ("parquet", "hf", "img2dataset"):
        with open_url(path) as file:
            metadata = open_parquet(path, file).metadata
            groups = chunk.groups if chunk.groups[1] else (0, metadata.num_row_groups)
            return sum(int(metadata.row_group(i).num_rows) for i in range(*groups))
    if chunk.format in ("csv", "tsv", "jsonl", "txt"):
        if chunk.format == "jsonl" and is_array(path):
            some = [len(text) for text in itertools.islice(elements_of(path), _ELEMENTS)]
            head, share = _head(path)
            return round(len(head) / share * len(some) / sum(some)) if some else 0
        if chunk.format == "jsonl" and object_in(path) is not None:
            return sum(1 for _ in values_of(path))
        head, share = _head(path)
        lines = head.count(b"\n")
        return round(lines / share) if lines else 1
    return None


def _head(path: str) -> tuple[bytes, float]:
    """The first bytes of a file, unpacked, and what share of the file they are."""
    fs, plain = locate(path)
    size = fs.size(plain)
    with open_url(path) as file:
        unpacked = unpack(file)
        head = (unpacked or file).read(_HEAD)
        read = len(head) if unpacked is None else file.tell()
    return head, max(read, 1) / max(size, read, 1)
