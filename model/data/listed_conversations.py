"""Conversations of text alone, to learn beside those about pictures: a list as it is published, of
JSON, lines of JSON or Parquet."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import SampleError, ShardError, SourceError
from gristmill.model.data.picture_files import Spot
from gristmill.model.distributed.ranks import rank
from gristmill.pipelines.decode import Image
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.schema import MESSAGES
from gristmill.pipelines.sources.conversation_documents import PICTURES
from gristmill.pipelines.sources.conversations import (
    IMAGE_MARK,
    PAIRS,
    TURNS,
    BrokenConversation,
    conversation_of,
)
from gristmill.pipelines.sources.formats import format_of
from gristmill.pipelines.sources.lines import object_of, values_of
from gristmill.pipelines.sources.reasons import NO_TURNS
from gristmill.pipelines.sources.values import BrokenJson, is_nothing
from gristmill.pipelines.storage import Folder

WITH_PICTURES = "with pictures: gristmill run conversations"
# Rows that are counted as a shard, and those that are looked at to know what a list holds.
_SHARD, _HEAD = 5_000, 20
_COLUMNS = (*TURNS, "system", "input", *(name for pair in PAIRS for name in pair))
_SCHEMA = pa.schema(
    [pa.field("uid", pa.string()), pa.field("caption", pa.string()), pa.field("messages", MESSAGES)]
)


class ListedConversations:
    """The conversations of a list that show no picture; what else it holds is counted, once, on
    standard error."""

    def __init__(self, url: str) -> None:
        """Raises `ShardError` if there are none."""
        self.url, self.media = url, "text"
        parent, _, name = url.rpartition("/")
        size = Folder(parent or ".").size(name)
        self._tables, self.digest, self.left_out = _read(url, size)
        self.forgotten: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_tables": []}

    def counts(self) -> list[int]:
        return [len(table) for table in self._tables]

    def table(self, shard: int) -> pa.Table:
        return self._tables[shard]

    def file(self, shard: int) -> str:
        return self.url

    def spot(self, shard: int, row: int) -> Spot:
        return Spot(shard, row)

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        return self.picture_at(self.spot(shard, row), number, frames)

    def picture_at(self, spot: Spot, number: int = 0, frames: int = 1) -> Image:
        raise SampleError("no picture")


def lists_conversations(url: str) -> bool:
    """Whether a file is a list with conversations among its first rows."""
    # A .json may be anything; what it is tells its content.
    if format_of(url) not in ("coco", "jsonl", "parquet"):
        return False
    try:
        names = {name for row in itertools.islice(_rows(url), _HEAD) for name in row or ()}
    except FileNotFoundError:
        return False
    return bool(set(TURNS) & names) or any(names.issuperset(pair) for pair in PAIRS)


@functools.lru_cache(maxsize=4)
def _read(url: str, size: int) -> tuple[list[pa.Table], str, Counter[str]]:
    """Tables, digest, and what was left out; once, however often the list is opened."""
    left_out: Counter[str] = Counter()
    content = hashlib.sha256()
    tables: list[pa.Table] = []
    rows: list[dict[str, object]] = []
    for number, values in enumerate(_rows(url)):
        messages, reason = _messages(values)
        if reason:
            left_out[reason] += 1
            continue
        content.update(json.dumps(messages, ensure_ascii=False).encode("utf-8", "replace"))
        name = url.rpartition("/")[2]
        rows.append({"uid": f"{name}/{number}", "caption": "", "messages": messages})
        if len(rows) == _SHARD:
            tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
            rows = []
    tables += [pa.Table.from_pylist(rows, schema=_SCHEMA)] if rows else []
    told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    if not tables:
        raise ShardError(f"{url} holds no conversation of text alone: {told or 'it is empty'}")
    if told and rank() == 0:
        print(f"{url}: not read: {told}", file=sys.stderr, flush=True)
    return tables, content.hexdigest(), left_out


def _messages(values: Mapping[str, object] | None) -> tuple[list[dict[str, str]], str]:
    """The turns of a row, or why it has none."""
    if values is None:
        return [], "broken json line"
    shown = next((values[name] for name in PICTURES if not is_nothing(values.get(name))), None)
    try:
        turns = conversation_of(values)
    except BrokenConversation as error:
        return [], str(error)
    if not turns:
        return [], NO_TURNS
    if shown not in (None, []) or any(IMAGE_MARK in turn.text for turn in turns):
        return [], WITH_PICTURES
    return [turn._asdict() for turn in turns], ""


def _rows(url: str) -> Iterator[Mapping[str, object] | None]:
    """The rows of a list; None for a line that is no object."""
    if format_of(url) == "parquet":
        with open_url(url) as opened:
            file = pq.ParquetFile(opened)
            # Of pictures only whether there are any.
            asked = [n for n in file.schema_arrow.names if n in (*_COLUMNS, *PICTURES)]
            for batch in file.iter_batches(200, columns=asked):
                yield from batch.to_pylist()
        return
    yield from json_rows(url)


def json_rows(url: str) -> Iterator[Mapping[str, object] | None]:
    """The objects of a file of JSON or of lines of it, packed or not; None for what is none.
    Raises `ShardError` for a file that is neither."""
    try:
        for line in values_of(url):
            try:
                yield object_of(line)
            except BrokenJson:
                yield None
    except SourceError as error:
        raise ShardError(str(error)) from error
