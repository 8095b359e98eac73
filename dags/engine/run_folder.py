"""The run folder: one folder a node, one commit record a part. The lock that keeps writers apart is
in `run_lock.py`.

    runs/mine/
      dag.yaml  run.json  summary.json  report.html  logs/run.log
      nodes/<node>-<fingerprint>/000000.json         commit record: files, digests, counts, inputs
                                 000000.jsonl        those of parts committed together
                                 records.jsonl       such records, gathered
                                 000000-<token>.*    what the record names; all else is left-over
      ledger/000000.parquet                          one row per input row
      additions.json                                 lists that were added, see `additions.py`
      shards/                                        the product

Data files have unique names and are only trusted once a record names them, so two attempts at the
same part never harm each other, on a file system or on an object store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.dags.engine.additions import Addition
from gristmill.dags.engine.attempt import Attempt, record_name
from gristmill.dags.engine.bundle import BUNDLE, group_names, read_bundle, write_bundle
from gristmill.dags.engine.checked import read_checked
from gristmill.dags.engine.records import (
    FileRecord,
    Record,
    StoredRecord,
    load_record,
)
from gristmill.dags.graph import Dag
from gristmill.errors import BrokenRecordError, RunError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.out_folder import require_own
from gristmill.pipelines.sealed import read_sealed, unseal
from gristmill.pipelines.stage import Read
from gristmill.pipelines.storage import Folder, read_parquet

# Records fetched side by side; more would only wait for one another.
_AT_ONCE = 1000
# Records beside the bundle that are gathered in the middle of a step.
_MANY = 1000
ROWS = "rows"
BLOBS = "blobs"
DROPPED_ROWS = "dropped"
# What tells a run's folder from others, and what of ours may lie in one before it runs.
_MARKS = ("run.lock", "nodes", "run.json")
_BESIDE = ("logs", "pilot", "web", "filter-network")


def require_run_folder(url: str) -> None:
    """Raise `ConfigurationError` if the folder holds something that is no run: it would be
    overwritten. Writes nothing."""
    require_own(url, what="run", marks=_MARKS, beside=_BESIDE)


@dataclass(frozen=True)
class RunLayout:
    """Where each node's parts lie; small and picklable, so that every worker has it. What a process
    knows of commit records stays in that process."""

    url: str
    dag: Dag
    # Node -> 64 hex digits.
    fingerprints: Mapping[str, str]
    # Rows of the source to take; 0 means all.
    limit: int = 0
    # Lists that were added after the first; those beyond the last of these are not looked at.
    additions: tuple[Addition, ...] = ()
    _stores: dict[str, PartStore] = field(default_factory=dict, init=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_stores": {}}

    @property
    def folder(self) -> Folder:
        """The run's folder."""
        return Folder(self.url)

    @property
    def before(self) -> RunLayout:
        """The run as it was before its last list was added."""
        return self.upto(len(self.additions) - 1)

    @property
    def lists(self) -> list[RunLayout]:
        """The run with its first list alone, with one more, and so on: the last is this one."""
        return [self.upto(number) for number in range(len(self.additions) + 1)]

    def upto(self, number: int) -> RunLayout:
        """The run with so many of its additions; what is known of commit records is shared."""
        found = dataclasses.replace(self, additions=self.additions[:number])
        object.__setattr__(found, "_stores", self._stores)
        return found

    @property
    def reading(self) -> Read:
        """How the last list is read."""
        if self.additions:
            return self.additions[-1].source
        return cast(Read, self.dag.stage(self.dag.source))

    @property
    def rows_to_take(self) -> int:
        """Rows of the last list to take; 0 means all."""
        return self.additions[-1].limit if self.additions else self.limit

    def node_folder(self, node: str) -> str:
        """Name of a node's folder below the run's."""
        return f"nodes/{node}-{self.fingerprints[node][:12]}"

    def last_folder(self, node: str) -> str:
        """Name of the folder below the run's of what a node found when the last list came, but for
        its parts, which lie in the node's folder whatever list they are of."""
        name = self.node_folder(node)
        return f"{name}/added-{len(self.additions):02d}" if self.additions else name

    def store(self, node: str) -> PartStore:
        """The committed parts of a node."""
        if node not in self._stores:
            self._stores[node] = PartStore(self.folder.sub(self.node_folder(node)))
        return self._stores[node]

    def forget(self, node: str) -> None:
        """Know nothing of a node's parts any more: its folder was removed."""
        self._stores.pop(node, None)

    def digest(self, node: str, part: int) -> str:
        """What a node's part says, for what is built on it. A Keep node hands on the rows above it:
        they may say something else (a document lost a picture) and be kept all the same."""
        return self.digests(node, [part])[part]

    def input_digests(self, node: str, part: int) -> dict[str, str]:
        """Digests of what `node` builds on in a part."""
        return {other: self.digest(other, part) for other in self.dag.node(node).inputs}

    def digests(self, node: str, parts: Iterable[int]) -> dict[int, str]:
        """`digest` of many parts."""
        store, parts = self.store(node), list(parts)
        if len(parts) > 1:
            store.records()
        own = {part: store.need(part).digest for part in parts}
        if not isinstance(self.dag.stage(node), Keep):
            return own
        above = self.digests(self.dag.row_node(node), own)
        return {
            part: xxhash.xxh3_64_hexdigest(f"{digest};{above[part]}".encode())
            for part, digest in own.items()
        }


class PartStore:
    """The parts of one node. A part exists when its record does, by itself or in the bundle.

    Records are kept once they were read. A process that reads them all (`sound_parts`) holds for
    true what it found, until it reads them again, commits a part itself, or is told to look
    (`look_again`): that is the driver, alone under the run's lock, and whoever only looks.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._known: dict[int, Record] = {}
        # Parts that are done, and whose records lie beside the bundle.
        self._loose: set[int] = set()
        # Files of records of parts that were committed together, not yet gathered.
        self._groups: list[str] = []
        # Parts that this process committed, and that nobody was told of yet.
        self._own: set[int] = set()
        # Parts whose own record cannot be believed; whether some line of the bundle cannot.
        self._broken: set[int] = set()
        self._torn = False
        # Whether all that were there are known.
        self._whole = False
        self._bundled: dict[int, Record] | None = None

    def record(self, part: int) -> Record | None:
        """The commit record of a part; None if there is none, or none that can be believed: the
        part is not committed then."""
        if part not in self._known and not self._whole:
            try:
                found = self._find(part)
            except BrokenRecordError:
                found = None
            if found is not None:
                self._known[part] = found
        return self._known.get(part)

    def need(self, part: int) -> Record:
        """The record of a part that must be there."""
        if part not in self._known:
            found = self._find(part)
            if found is None:
                # It may have been gathered since the bundle was read, or not be gathered yet.
                self._read_all(self.folder.names())
                found, self._whole = self._known.get(part), False
            if found is None:
                raise RunError(f"part {part} of {self.folder.url} is not committed; run again")
            self._known[part] = found
        return self._known[part]

    def _find(self, part: int) -> Record | None:
        """A record from storage; the bundle is read once. Raises `BrokenRecordError`."""
        try:
            return self._parsed(part, read_sealed(self.folder, record_name(part)))
        except FileNotFoundError:
            if self._bundled is None:
                self._bundled, _ = read_bundle(self.folder)
            return self._bundled.get(part)

    def _parsed(self, part: int, stored: dict[str, object]) -> Record:
        try:
            return load_record(cast(StoredRecord, stored))
        except (KeyError, TypeError, AttributeError) as error:
            # One of a time before records were sealed, that somebody changed.
            raise BrokenRecordError(
                f"{self.folder.join_url(record_name(part))} is no commit record ({error!r}); "
                "gristmill repair does the part again"
            ) from None

    def _read_loose(self, parts: Sequence[int]) -> tuple[dict[int, Record], set[int]]:
        """Records that lie beside the bundle, and the parts of those that cannot be believed."""
        found: dict[int, Record] = {}
        broken = set()
        for start in range(0, len(parts), _AT_ONCE):
            some = parts[start : start + _AT_ONCE]
            data = self.folder.read_many([record_name(part) for part in some])
            for part in some:
                if record_name(part) not in data:
                    continue
                try:
                    found[part] = self._parsed(part, unseal(data[record_name(part)]))
                except BrokenRecordError:
                    # It may have been read wrong; that takes time to find out.
                    try:
                        stored = read_sealed(self.folder, record_name(part))
                        found[part] = self._parsed(part, stored)
                    except (BrokenRecordError, FileNotFoundError):
                        broken.add(part)
        return found, broken

    def _read_all(self, names: Collection[str]) -> None:
        """Know what is there, of files that were listed."""
        parts = self.parts_of(names)
        loose, broken = self._read_loose(parts)
        groups = group_names(names)
        grouped: dict[int, Record] = {}
        lines = 0
        for name in groups:
            some, torn = read_bundle(self.folder, name)
            grouped |= some
            lines += torn
        # What was gathered since the listing lies in the bundle, which comes last therefore.
        gone = bool(groups) or len(loose) + len(broken) < len(parts)
        bundled, torn = read_bundle(self.folder) if gone or BUNDLE in names else ({}, 0)
        bundled |= grouped
        known = {part: record for part, record in bundled.items() if part not in broken}
        self._known = dict(sorted((known | loose).items()))
        self._loose, self._groups = set(loose), groups
        self._bundled, self._whole = bundled, True
        self._broken, self._torn = broken, lines + torn > 0
        self._own.clear()

    def records(self) -> dict[int, Record]:
        """All records that can be believed, by part, in order; read once."""
        if not self._whole:
            self._read_all(self.folder.names())
        return self._known

    def sound_parts(self) -> dict[int, Record]:
        """The parts whose record can be believed and whose files are there, as long as they were
        written, by one listing now; digests are looked at where bytes are read."""
        sizes = self.folder.sizes()
        self._read_all(sizes)
        return {
            part: record
            for part, record in self._known.items()
            if all(_is_there(file, sizes) for file in record.files.values())
        }

    def take_back_unsound(self) -> tuple[dict[int, Record], list[int]]:
        """`sound_parts`, and the parts that were said to be there and are not sound: they are
        committed no longer."""
        sound = self.sound_parts()
        unsound = sorted(self._broken | (self._known.keys() - sound.keys()))
        if unsound:
            self.drop(unsound)
        return sound, unsound

    def parts(self) -> list[int]:
        """Numbers of the parts that have a record."""
        return list(self.records())

    @staticmethod
    def parts_of(names: Iterable[str]) -> list[int]:
        """Numbers of the parts that have a record of their own among these files."""
        bare = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted(int(name) for name in bare if name.isdigit())

    def look_again(self, parts: Iterable[int]) -> None:
        """Know the records of parts that are done: read, unless this process committed them."""
        parts = list(parts)
        own = self._own.intersection(parts)
        self._own -= own
        found, broken = self._read_loose([part for part in parts if part not in own])
        self._known |= found
        self._loose |= own | found.keys()
        for part in broken:
            self._known.pop(part, None)

    def gather(self, least: int = 2) -> None:
        """Bring records into the bundle, if at least so many lie beside it. For whoever holds the
        run's lock and knows all records."""
        enough = self._torn or bool(self._groups) or len(self._loose) >= least
        if self._whole and self._known and enough:
            # Other threads may commit meanwhile: parts that nobody was told of yet.
            known = dict(self._known)
            write_bundle(self.folder, known)
            loose = [record_name(part) for part in sorted(self._loose)]
            self.folder.remove_files([*loose, *self._groups])
            self._loose, self._groups, self._torn, self._bundled = set(), [], False, known

    def settle(self) -> None:
        """Know and gather all records that are there now, by one listing."""
        self._read_all(self.folder.names())
        self.gather()

    def replace(self, records: Mapping[int, Record]) -> None:
        """Have these be all parts; their files are written, and none has a record yet."""
        names = self.folder.names()
        loose = [record_name(part) for part in self.parts_of(names)]
        # They would stand above what is written now.
        self.folder.remove_files([*loose, *group_names(names)])
        write_bundle(self.folder, records)

    def gather_many(self) -> None:
        """Bring records into the bundle if they are so many that they would be missed; so seldom
        that what is written stays within a few times what there is."""
        self.gather(max(_MANY, (len(self._known) - len(self._loose)) // 2))

    def drop(self, parts: Iterable[int]) -> None:
        """Take parts back: they are not committed any more."""
        gone = set(parts)
        bundled, _ = read_bundle(self.folder)
        groups = group_names(self.folder.names())
        for name in groups:
            bundled |= read_bundle(self.folder, name)[0]
        if groups or gone & bundled.keys():
            left = {part: record for part, record in bundled.items() if part not in gone}
            write_bundle(self.folder, left)
        self.folder.remove_files([*map(record_name, sorted(gone)), *groups])
        self._loose -= gone
        self._broken -= gone
        self._groups, self._bundled = [], None
        for part in gone:
            self._known.pop(part, None)

    def committed(self, record: Record) -> None:
        """Know what this process has just committed."""
        self._known[record.part] = record
        self._own.add(record.part)

    def table(self, record: Record, kind: str = ROWS, columns: list[str] | None = None) -> pa.Table:
        """A table of a committed part, or some of its columns."""
        data = read_checked(self.folder, record.files[kind])
        return read_parquet(pa.BufferReader(data), columns)

    def array(self, record: Record, kind: str) -> NDArray[np.generic]:
        """An array of a committed part."""
        data = io.BytesIO(read_checked(self.folder, record.files[kind]))
        return cast(NDArray[np.generic], np.lib.format.read_array(data, allow_pickle=False))

    @contextlib.contextmanager
    def attempt(self, part: int) -> Iterator[Attempt]:
        """A place to write a part; nothing of it is seen before `commit`."""
        attempt = Attempt(self.folder, part, self.committed)
        try:
            yield attempt
        finally:
            attempt.discard()


def _is_there(file: FileRecord, sizes: Mapping[str, int]) -> bool:
    """Whether a file is as long as it was written, among those that were listed."""
    size = sizes.get(file["name"])
    if "start" not in file:
        return size == file["size"]
    return size is not None and size >= file["start"] + file["size"]
