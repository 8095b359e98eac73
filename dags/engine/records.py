"""The commit record of a part: what it consists of, what it was built on, and its counts.

In code the counts have the names of this page; in the JSON of a run folder two of them keep the
names that the first runs wrote (`born`, `halved`), so that those runs are taken up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import xxhash

# Name in code -> key in stored JSON, where they differ.
STORED_KEYS = {"rows_added": "born", "block_splits": "halved"}


class FileRecord(TypedDict):
    """One file of a part, relative to the node's folder; `size` in bytes, `xxh3` 32 hex digits."""

    name: str
    size: int
    xxh3: str
    # Where it begins in a file that several parts share; `size` and `xxh3` are of this part's.
    start: NotRequired[int]


class CommitFacts(TypedDict, total=False):
    """What an operator says of a part when it commits it; see `Record` for what each means."""

    inputs: Mapping[str, str]
    rows_in: int
    rows_out: int
    dropped: Mapping[str, int]
    rows_added: int
    merged: int
    block_splits: int
    seconds: float
    peak_rss_mb: float


class StoredRecord(TypedDict, total=False):
    """A record as it lies in the run folder."""

    part: int
    files: dict[str, FileRecord]
    inputs: dict[str, str]
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    born: int
    merged: int
    halved: int
    seconds: float
    peak_rss_mb: float


@dataclass(frozen=True)
class Record:
    """What a committed part consists of."""

    part: int
    # Kind (rows, blobs, dropped, or the column of a sidecar) -> the file.
    files: Mapping[str, FileRecord]
    # Digest of each input node's record for the same part.
    inputs: Mapping[str, str] = field(default_factory=dict)
    rows_in: int = 0
    rows_out: int = 0
    # Reason -> rows that ended here.
    dropped: Mapping[str, int] = field(default_factory=dict)
    # Rows that came out beyond those that went in, such as the clips of a video.
    rows_added: int = 0
    # Rows whose content went on in another row.
    merged: int = 0
    # How often a block of rows had to be split because it did not fit.
    block_splits: int = 0
    seconds: float = 0.0
    peak_rss_mb: float = 0.0

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the contents: same files, same digest."""
        text = ";".join(f"{kind}:{self.files[kind]['xxh3']}" for kind in sorted(self.files))
        return xxhash.xxh3_64_hexdigest(text.encode())

    def stored(self) -> dict[str, object]:
        """The record as JSON holds it."""
        return {STORED_KEYS.get(name, name): getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(one.name for one in dataclasses.fields(Record))


def load_record(stored: StoredRecord) -> Record:
    """The record that a run folder holds."""
    return Record(
        part=stored["part"],
        files=stored["files"],
        inputs=stored.get("inputs", {}),
        rows_in=stored.get("rows_in", 0),
        rows_out=stored.get("rows_out", 0),
        dropped=stored.get("dropped", {}),
        rows_added=stored.get("born", 0),
        merged=stored.get("merged", 0),
        block_splits=stored.get("halved", 0),
        seconds=stored.get("seconds", 0.0),
        peak_rss_mb=stored.get("peak_rss_mb", 0.0),
    )
