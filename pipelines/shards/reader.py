"""Random access to the samples of a shard set, by where their bytes lie; no torch, no unpacking."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gristmill.errors import BrokenRecordError, ShardError
from gristmill.pipelines.media import MULTI_IMAGE
from gristmill.pipelines.sealed import read_sealed
from gristmill.pipelines.shards.manifest import Manifest, ShardFact
from gristmill.pipelines.storage import Folder

# Of a tar that is read from its beginning to its end, at a time.
_READ_BYTES = 16 * 2**20
FORGOTTEN = "forgotten.json"
"""Beside a manifest: uids that readers skip, as `gristmill forget` lists them."""


@dataclass(frozen=True)
class Sample:
    """One sample: its key, the bytes of its pictures or its clip (none in a set of tokens alone),
    its caption, and all columns about it."""

    uid: str
    images: tuple[bytes, ...]
    caption: str
    columns: dict[str, Any]

    @property
    def image(self) -> bytes:
        """The first of them."""
        return self.images[0] if self.images else b""


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a shard set; a set without one is not whole and is refused."""
    try:
        manifest = read_sealed(folder, "manifest.json")
    except FileNotFoundError:
        raise ShardError(
            f"{folder.url} has no manifest.json: the set is not whole, or is not ours; "
            "finish the run that writes it"
        ) from None
    except BrokenRecordError as error:
        raise ShardError(str(error)) from error
    if "splits" not in manifest:
        raise ShardError(f"{folder.url}/manifest.json has no splits; it is not ours")
    return cast(Manifest, manifest)


class ShardSet:
    """The samples of one split, by number, less those that were forgotten. Pickles to other
    processes; reads any fsspec URL.

    Raises `ShardError` for a set without manifest, an unknown split, or shards of another size.
    """

    def __init__(self, url: str, split: str = "train") -> None:
        self.url, self.split = url, split
        self._folder = Folder(url)
        manifest = read_manifest(self._folder)
        if split not in manifest["splits"]:
            raise ShardError(f"{url} has no split {split!r}; there are: {list(manifest['splits'])}")
        self.format = str(manifest["format"])
        self.media = str(manifest.get("media", "image"))
        self.pictures = bool(manifest.get("pictures", True))
        self.shards: list[ShardFact] = manifest["splits"][split]["shards"]
        for shard in self.shards:
            self._check_size(shard)
        counts = [int(shard["samples"]) for shard in self.shards]
        self._ends = list(itertools.accumulate(counts))
        self.forgotten = read_forgotten(self._folder)

    @cached_property
    def _numbers(self) -> NDArray[np.int64] | None:
        """Numbers of the samples that may be seen; None: all. Read when they are first asked for:
        a training asks by shard and row."""
        if not self.forgotten:
            return None
        seen = [
            uid not in self.forgotten
            for shard in range(len(self.shards))
            for uid in self.metadata(shard)["uid"].to_pylist()
        ]
        return np.flatnonzero(seen)

    def _check_size(self, shard: ShardFact) -> None:
        try:
            size = self._folder.size(shard["name"])
        except FileNotFoundError:
            raise ShardError(f"{self.url}/{shard['name']} is missing") from None
        if size != shard["bytes"]:
            raise ShardError(
                f"{self.url}/{shard['name']} has {size} bytes, the manifest says "
                f"{shard['bytes']}; run gristmill verify, and write the shards again"
            )

    def __len__(self) -> int:
        if self._numbers is not None:
            return len(self._numbers)
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`; negative ones count from the end."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)} samples")
        if self._numbers is not None:
            index = int(self._numbers[index])
        shard = bisect.bisect_right(self._ends, index)
        return self.sample(shard, index - (self._ends[shard - 1] if shard else 0))

    def __iter__(self) -> Iterator[Sample]:
        """All samples in order, each shard read from its beginning to its end."""
        for shard in range(len(self.shards)):
            table = self.metadata(shard)
            values = [column.to_pylist() for column in table.columns]
            names = table.column_names
            rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
            for columns, images in zip(rows, self._images(shard, rows), strict=True):
                if columns["uid"] not in self.forgotten:
                    yield Sample(columns["uid"], images, columns["caption"] or "", columns)

    def _images(self, shard: int, rows: list[dict[str, Any]]) -> Iterator[tuple[bytes, ...]]:
        """Pictures of the rows of a shard, in order; takes the places of members out of the
        rows."""
        if not self.pictures:
            yield from itertools.repeat((), len(rows))
        elif self.format == "webdataset":
            yield from self._members(self.shards[shard]["name"], [_places(row) for row in rows])
        else:
            for group in range(len(self._groups(shard))):
                yield from map(tuple, self._cells(shard, group))

    def _members(
        self, name: str, places: Sequence[Sequence[tuple[int, int]]]
    ) -> Iterator[tuple[bytes, ...]]:
        """Members of a tar at (offset, size) of each row, whose rows follow one another: read many
        at a time."""
        first = 0
        while first < len(places):
            last, size = first, 0
            while last < len(places) and (last == first or size < _READ_BYTES):
                size += sum(one for _, one in places[last])
                last += 1
            held = [place for some in places[first:last] for place in some]
            starts = min((offset for offset, _ in held), default=0)
            ends = max((offset + size for offset, size in held), default=0)
            data = self._folder.read_range(name, starts, ends - starts) if held else b""
            for some in places[first:last]:
                yield tuple(data[at - starts : at - starts + size] for at, size in some)
            first = last

    def metadata(self, shard: int) -> pa.Table:
        """The metadata of a shard, one row for each of its samples."""
        name = self.shards[shard]["name"]
        base = name.rpartition("/")[2].rpartition(".")[0]
        version = str(self.shards[shard]["sha256"])
        return _table(self.url, f"{self.split}/metadata/{base}.parquet", version)

    def sample(self, shard: int, row: int) -> Sample:
        """The sample at a place, forgotten or not."""
        columns = self.metadata(shard).slice(row, 1).to_pylist()[0]
        name = self.shards[shard]["name"]
        images: list[bytes] = []
        if self.format == "webdataset" and self.pictures:
            for offset, size in _places(columns):
                images.append(self._folder.read_range(name, offset, size))
        elif self.pictures:
            groups = self._groups(shard)
            group = bisect.bisect_right(groups, row)
            images = self._cells(shard, group)[row - (groups[group - 1] if group else 0)]
        return Sample(str(columns["uid"]), tuple(images), columns["caption"] or "", columns)

    def _groups(self, shard: int) -> list[int]:
        """Where each row group of a Parquet shard ends."""
        fact = self.shards[shard]
        return _groups(self.url, fact["name"], str(fact["sha256"]))

    def _cells(self, shard: int, group: int) -> list[list[bytes]]:
        """Pictures of each row of a row group."""
        fact = self.shards[shard]
        column = "images" if self.media in MULTI_IMAGE else self.media
        return _cells(self.url, fact["name"], str(fact["sha256"]), group, column)

    def __reduce__(self) -> tuple[type[ShardSet], tuple[str, str]]:
        return (ShardSet, (self.url, self.split))


def read_forgotten(folder: Folder) -> frozenset[str]:
    """uids of a shard set that readers skip."""
    if not folder.exists(FORGOTTEN):
        return frozenset()
    return frozenset(read_sealed(folder, FORGOTTEN)["uids"])


def _places(columns: dict[str, Any]) -> list[tuple[int, int]]:
    """Where the members of a sample lie in its tar; taken out of its columns."""
    if "image_offsets" in columns:
        offsets, sizes = columns.pop("image_offsets"), columns.pop("image_sizes")
        return list(zip(offsets, sizes, strict=True))
    return [(columns.pop("image_offset"), columns.pop("image_size"))]


@lru_cache(maxsize=64)
def _table(url: str, name: str, version: str) -> pa.Table:
    # `version` only tells one set from the next at the same place.
    return Folder(url).read_table(name)


@lru_cache(maxsize=64)
def _groups(url: str, name: str, version: str) -> list[int]:
    """Where each row group of a Parquet shard ends."""
    with Folder(url).open(name) as file:
        metadata = pq.ParquetFile(file).metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return list(itertools.accumulate(counts))


@lru_cache(maxsize=4)
def _cells(url: str, name: str, version: str, group: int, column: str) -> list[list[bytes]]:
    with Folder(url).open(name) as file:
        table = pq.ParquetFile(file).read_row_group(group, columns=[column])
    cells = table[column].to_pylist()
    # A cell of nothing is a picture of no bytes: whoever decodes it says so.
    return [
        [(one or {}).get("bytes") or b"" for one in (cell if isinstance(cell, list) else [cell])]
        for cell in cells
    ]


def spread(samples: ShardSet, count: int) -> Iterator[Sample]:
    """`count` samples evenly spread over a set, for looking at it."""
    if len(samples):
        step = max(1, math.floor(len(samples) / count))
        for index in np.arange(0, len(samples), step)[:count]:
            yield samples[int(index)]
