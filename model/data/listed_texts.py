"""Texts without pictures, to learn beside those with: a list with a column `text`, as corpora of
language models are published, in Parquet or lines of JSON, compressed or not."""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import SampleError, ShardError
from gristmill.model.data.listed_conversations import json_rows
from gristmill.model.data.picture_files import Spot
from gristmill.model.distributed.ranks import rank
from gristmill.pipelines.decode import Image
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.sources.formats import format_of
from gristmill.pipelines.storage import Folder

TEXT = "text"
# Beside a text these say that a row is of something else.
_OTHERS = {"image", "images", "url", "image_url", "video", "caption", "conversations", "messages"}
# Lines that are counted as a shard, and those that are looked at to know what a list holds.
_SHARD, _HEAD = 5_000, 20
_SCHEMA = pa.schema([pa.field("uid", pa.string()), pa.field("caption", pa.string())])


class ListedTexts:
    """The texts of a list, as captions of nothing: task `text` learns them. Those longer than a row
    are learnt by windows.

    Of Parquet a group of rows is read when it is asked for; lines of JSON are held in memory.
    """

    def __init__(self, url: str) -> None:
        """Raises `ShardError` if there are none."""
        self.url, self.media = url, "text"
        self.forgotten: frozenset[str] = frozenset()
        parent, _, self._name = url.rpartition("/")
        size = Folder(parent or ".").size(self._name)
        self._tables: list[pa.Table] | None = None
        if format_of(url) == "parquet":
            with open_url(url) as opened:
                facts = pq.ParquetFile(opened).metadata
            self._counts = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
            self._firsts = [0, *itertools.accumulate(self._counts)]
            # A file written anew has other groups, sizes or statistics.
            told = [str(facts.row_group(i).to_dict()) for i in range(facts.num_row_groups)]
            self.digest = hashlib.sha256(f"{size} {told}".encode()).hexdigest()
        else:
            self._tables, self.digest = _read_lines(url, size)
            self._counts = [len(table) for table in self._tables]
        if not sum(self._counts):
            raise ShardError(f"{url} holds no text")

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_tables": None, "_counts": [], "_firsts": []}

    def counts(self) -> list[int]:
        return self._counts

    def table(self, shard: int) -> pa.Table:
        if self._tables is not None:
            return self._tables[shard]
        with open_url(self.url) as opened:
            texts = pq.ParquetFile(opened).read_row_group(shard, columns=[TEXT])[TEXT]
        first = self._firsts[shard]
        uids = [f"{self._name}/{first + row}" for row in range(len(texts))]
        return pa.table([pa.array(uids), texts.cast(pa.string())], schema=_SCHEMA)

    def file(self, shard: int) -> str:
        return self.url

    def spot(self, shard: int, row: int) -> Spot:
        return Spot(shard, row)

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        return self.picture_at(self.spot(shard, row), number, frames)

    def picture_at(self, spot: Spot, number: int = 0, frames: int = 1) -> Image:
        raise SampleError("no picture")


def lists_texts(url: str) -> bool:
    """Whether a file is a list with a column `text`, and of nothing to look at."""
    kind = format_of(url)
    try:
        if kind == "parquet":
            with open_url(url) as opened:
                schema = pq.ParquetFile(opened).schema_arrow
            names = set(schema.names)
            is_text = TEXT in names and (
                pa.types.is_string(schema.field(TEXT).type)
                or pa.types.is_large_string(schema.field(TEXT).type)
            )
        elif kind == "jsonl":
            head = [row for row in itertools.islice(json_rows(url), _HEAD) if row is not None]
            names = {name for row in head for name in row}
            is_text = any(isinstance(row.get(TEXT), str) for row in head)
        else:
            return False
    except FileNotFoundError:
        return False
    return is_text and not names & _OTHERS


@functools.lru_cache(maxsize=4)
def _read_lines(url: str, size: int) -> tuple[list[pa.Table], str]:
    """Tables and digest; once, however often the list is opened."""
    content = hashlib.sha256()
    tables: list[pa.Table] = []
    rows: list[dict[str, str]] = []
    name = url.rpartition("/")[2]
    broken = 0
    for number, row in enumerate(json_rows(url)):
        text = row.get(TEXT) if row is not None else None
        if not isinstance(text, str) or not text:
            broken += 1
            continue
        content.update(f"{len(text)} {text}".encode("utf-8", "replace"))
        rows.append({"uid": f"{name}/{number}", "caption": text})
        if len(rows) == _SHARD:
            tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
            rows = []
    tables += [pa.Table.from_pylist(rows, schema=_SCHEMA)] if rows else []
    if broken and rank() == 0:
        print(f"{url}: not read: {broken:,} without a text", file=sys.stderr, flush=True)
    return tables, content.hexdigest()
