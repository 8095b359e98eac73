"""A part on its way to be committed: files of unique names, which a record then names, or which are
removed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Unpack

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.dags.engine.records import CommitFacts, FileRecord, Record
from gristmill.errors import StorageError
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.storage import Folder


class Attempt:
    """Files of a part under way. Names are unique to the attempt."""

    def __init__(self, folder: Folder, part: int, committed: Callable[[Record], None]) -> None:
        self.folder, self.part = folder, part
        # Who is told.
        self._tell = committed
        self.token = uuid.uuid4().hex[:8]
        self.files: dict[str, FileRecord] = {}
        self.committed = False

    def name(self, kind: str, suffix: str) -> str:
        """Of a file of the part, below the node's folder."""
        return f"{self.part:06d}-{self.token}.{kind}.{suffix}"

    @contextlib.contextmanager
    def output(self, kind: str, suffix: str) -> Iterator[DigestWriter]:
        """A binary file of the part, digested as it is written."""
        name = self.name(kind, suffix)
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
        write_sealed(self.folder, record_name(self.part), record.stored())
        self.committed = True
        self._tell(record)
        return record

    def leave(self, **facts: Unpack[CommitFacts]) -> Record:
        """The files stay; the record, which is returned, is for whoever commits many at once."""
        self.committed = True
        return Record(part=self.part, files=self.files, **facts)

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if not self.committed:
            # A storage that went away keeps them: left-overs, which no record names.
            with contextlib.suppress(StorageError):
                self.folder.remove_files([file["name"] for file in self.files.values()])


def record_name(part: int) -> str:
    """The file of a part's own record."""
    return f"{part:06d}.json"
