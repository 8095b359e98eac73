"""What the manifest of a shard set holds: every file with its size and digest, shards by split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict


class FileFact(TypedDict):
    """A file of a shard set, relative to its folder: `bytes` of it, 64 hex digits of sha256."""

    name: str
    bytes: int
    sha256: str


class ShardFact(FileFact):
    """A shard."""

    samples: int


class WrittenFile(FileFact):
    """A file as it was written: a shard has samples, any other file None."""

    samples: int | None


class SplitFacts(TypedDict):
    """One split."""

    shards: list[ShardFact]


class ListFacts(TypedDict):
    """What one list of a run brought: shards of each split, whose numbers follow those of the lists
    before it."""

    name: str
    shards: Mapping[str, int]


class Manifest(TypedDict):
    """`manifest.json`. Sets of earlier versions lack `media` (image) and `pictures` (True)."""

    gristmill: int
    # webdataset or parquet.
    format: str
    media: NotRequired[str]
    pictures: NotRequired[bool]
    # Samples whose picture download decoded, and those over whose structure it only walked; where
    # it was told to walk.
    verified: NotRequired[Mapping[str, int]]
    # Of sets to which lists were added: the first, then these, in their order.
    lists: NotRequired[list[ListFacts]]
    splits: Mapping[str, SplitFacts]
    files: list[FileFact]
