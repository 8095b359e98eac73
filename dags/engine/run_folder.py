"""The run folder: one folder a node, one commit record a part. The lock that keeps writers apart is
in `run_lock.py`.

    runs/mine/
      dag.yaml  run.json  summary.json  report.html  logs/run.log
      nodes/<node>-<fingerprint>/000000.json         commit record: files, digests, counts, inputs
                                 000000-<token>.*    what the record names; all else is left-over
      ledger/000000.parquet                          one row per input row
      shards/                                        the product

Data files have unique names and are only trusted once a record names them, so two attempts at the
same part never harm each other, on a file system or on an object store.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Unpack, cast

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.dags.engine.checked import read_checked
from gristmill.dags.engine.records import (
    CommitFacts,
    FileRecord,
    Record,
    StoredRecord,
    load_record,
)
from gristmill.dags.graph import Dag
from gristmill.errors import BrokenRecordError, RunError, StorageError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.out_folder import require_own
from gristmill.pipelines.sealed import read_sealed, write_sealed
from gristmill.pipelines.storage import DigestWriter, Folder, read_parquet

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
    """Where each node's parts lie; small and picklable, so that every worker has it."""

    url: str
    dag: Dag
    # Node -> 64 hex digits.
    fingerprints: Mapping[str, str]
    # Rows of the source to take; 0 means all.
    limit: int = 0

    @property
    def folder(self) -> Folder:
        """The run's folder."""
        return Folder(self.url)

    def node_folder(self, node: str) -> str:
        """Name of a node's folder below the run's."""
        return f"nodes/{node}-{self.fingerprints[node][:12]}"

    def store(self, node: str) -> PartStore:
        """The committed parts of a node."""
        return PartStore(self.folder.sub(self.node_folder(node)))

    def digest(self, node: str, part: int) -> str:
        """What a node's part says, for what is built on it. A Keep node hands on the rows above it:
        they may say something else (a document lost a picture) and be kept all the same."""
        own = self.store(node).need(part).digest
        if not isinstance(self.dag.stage(node), Keep):
            return own
        above = self.digest(self.dag.row_node(node), part)
        return xxhash.xxh3_64_hexdigest(f"{own};{above}".encode())


class PartStore:
    """The parts of one node. A part exists when its record does."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def record(self, part: int) -> Record | None:
        """The commit record of a part; None if there is none, or none that can be believed: the
        part is not committed then."""
        try:
            return self._read(part)
        except (FileNotFoundError, BrokenRecordError):
            return None

    def _read(self, part: int) -> Record:
        name = f"{part:06d}.json"
        stored = read_sealed(self.folder, name)
        try:
            return load_record(cast(StoredRecord, stored))
        except (KeyError, TypeError, AttributeError) as error:
            # One of a time before records were sealed, that somebody changed.
            raise BrokenRecordError(
                f"{self.folder.join_url(name)} is no commit record ({error!r}); gristmill repair "
                "does the part again"
            ) from None

    def sound_parts(self) -> dict[int, Record]:
        """The parts whose record can be believed and whose files are there, as long as they were
        written, by one listing; digests are looked at where bytes are read."""
        sizes = self.folder.sizes()
        found = {}
        for part in self.parts_of(sizes):
            record = self.record(part)
            if record is not None and all(
                sizes.get(file["name"]) == file["size"] for file in record.files.values()
            ):
                found[part] = record
        return found

    def drop(self, part: int) -> None:
        """Take a part back: it is not committed any more."""
        self.folder.remove(f"{part:06d}.json")

    def parts(self) -> list[int]:
        """Numbers of the parts that have a record."""
        return self.parts_of(self.folder.names())

    @staticmethod
    def parts_of(names: Iterable[str]) -> list[int]:
        """Numbers of the parts that have a record among these files."""
        bare = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted(int(name) for name in bare if name.isdigit())

    def need(self, part: int) -> Record:
        """The record of a part that must be there."""
        try:
            return self._read(part)
        except FileNotFoundError:
            raise RunError(
                f"part {part} of {self.folder.url} is not committed; run again"
            ) from None

    def table(self, record: Record, kind: str = ROWS, columns: list[str] | None = None) -> pa.Table:
        """A table of a committed part, or some of its columns."""
        data = read_checked(self.folder, record.files[kind])
        return read_parquet(pa.BufferReader(data), columns)

    def array(self, record: Record, kind: str) -> NDArray[np.generic]:
        """An array of a committed part."""
        return parse_array(read_checked(self.folder, record.files[kind]))

    @contextlib.contextmanager
    def attempt(self, part: int) -> Iterator[Attempt]:
        """A place to write a part; nothing of it is seen before `commit`."""
        attempt = Attempt(self.folder, part)
        try:
            yield attempt
        finally:
            attempt.discard()


class Attempt:
    """Files of a part under way. Names are unique to the attempt."""

    def __init__(self, folder: Folder, part: int) -> None:
        self.folder, self.part = folder, part
        self.token = uuid.uuid4().hex[:8]
        self.files: dict[str, FileRecord] = {}
        self.committed = False

    def _name(self, kind: str, suffix: str) -> str:
        return f"{self.part:06d}-{self.token}.{kind}.{suffix}"

    @contextlib.contextmanager
    def output(self, kind: str, suffix: str) -> Iterator[DigestWriter]:
        """A binary file of the part, digested as it is written."""
        name = self._name(kind, suffix)
        with self.folder.output(name) as file:
            digesting = DigestWriter(file, xxhash.xxh3_128())
            yield digesting
        self.files[kind] = {
            "name": name,
            "size": digesting.size,
            "xxh3": digesting.digest.hexdigest(),
        }

    def write_table(self, kind: str, table: pa.Table) -> None:
        """A Parquet file of the part."""
        import pyarrow.parquet as pq

        with self.output(kind, "parquet") as file:
            pq.write_table(table, pa.PythonFile(file, "w"), compression="zstd")

    def write_array(self, kind: str, array: NDArray[np.generic]) -> None:
        """A .npy file of the part."""
        with self.output(kind, "npy") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def commit(self, **facts: Unpack[CommitFacts]) -> Record:
        """Write the record: from now on the part is there."""
        record = Record(part=self.part, files=self.files, **facts)
        write_sealed(self.folder, f"{self.part:06d}.json", record.stored())
        self.committed = True
        return record

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if not self.committed:
            # A storage that went away keeps them: left-overs, which no record names.
            with contextlib.suppress(StorageError):
                for file in self.files.values():
                    self.folder.remove(file["name"])


def parse_array(data: bytes) -> NDArray[np.generic]:
    """A .npy file."""
    found: NDArray[np.generic] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return found
