"""The rows that enter a node, put together part by part from the committed columns above it.

Columns are joined by `uid` within a part. A row that a Score node set aside as poisoned has no
entry there, and so does not reach what follows.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.dags.engine.checked import cut_checked, insist, read_checked
from gristmill.dags.engine.records import FileRecord, Record
from gristmill.dags.engine.run_folder import BLOBS, ROWS, RunLayout
from gristmill.dags.graph import columns_written, is_row_stage, stores_images
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.patience import WrongBytesError
from gristmill.pipelines.schema import GOING_ON
from gristmill.pipelines.stage import Global, Map, Score
from gristmill.pipelines.storage import Folder, read_parquet
from gristmill.pipelines.verdicts import KEPT

# Offset and size of stored bytes, and their sha256 if it is known.
_Piece = tuple[int, int, str | None]
# A file, rows whose pieces lie near one another there, and these pieces.
_Group = tuple[str, NDArray[np.intp], list[_Piece]]
_UID, _DIGEST = "uid", "stored_sha256"
_GOING_ON = pa.array(GOING_ON)
# Reading pictures one by one is slow; gaps up to this many bytes are read and thrown away.
_MERGE_GAP = 256 * 1024
# Bytes that are fetched side by side, thrown away or not.
_AT_ONCE = 256 * 2**20


class RowReader:
    """Reads what enters the nodes of a run; `many` parts, one after the other, or one now and
    then."""

    def __init__(self, layout: RunLayout, *, many: bool = False) -> None:
        self.layout, self._many = layout, many
        # Node -> the file that several parts share of which one was read last, and its bytes once
        # a second is read.
        self._shared: dict[str, tuple[str, dict[str, bytes]]] = {}
        # Files of one part, read once while it is put together; name -> bytes.
        self._held: tuple[int, dict[str, bytes | memoryview]] = (-1, {})

    def record(self, node: str, part: int) -> Record:
        """The commit record of a part."""
        return self.layout.store(node).need(part)

    def entering(self, node: str, part: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of the rows of `part` that enter `node`, in order."""
        dag = self.layout.dag
        base = dag.row_node(node)
        above = dag.upstream(node)
        between = [
            other
            for other in above
            if isinstance(dag.stage(other), (Score, Global))
            and not is_row_stage(dag.stage(other))
            and dag.row_node(other) == base
        ]
        provided = {
            field.name: other for other in between for field in columns_written(dag.stage(other))
        }
        wanted = list(dict.fromkeys((_UID, *columns)))
        table = self.leaving(base, part, [name for name in wanted if name not in provided])
        for other in between:
            names = [name for name in wanted if provided.get(name) == other]
            table = self._join(table, other, part, names)
        return table.select(list(columns))

    def leaving(self, node: str, part: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of the rows that a row node lets through."""
        stage = self.layout.dag.stage(node)
        wanted = list(dict.fromkeys((_UID, *columns)))
        if isinstance(stage, Keep):
            verdict = self._table(node, part, [_UID, "verdict"])
            table = self.entering(node, part, wanted)
            kept = pc.equal(verdict["verdict"], KEPT)
            return table.filter(pc.is_in(table[_UID], verdict[_UID].filter(kept)))
        if isinstance(stage, Map):
            table = self._table(node, part, [*wanted, "status"])
            return table.filter(pc.is_in(table["status"], _GOING_ON)).select(wanted)
        return self._table(node, part, wanted)

    def table(
        self, node: str, part: int, kind: str = ROWS, columns: list[str] | None = None
    ) -> pa.Table:
        """A table of a committed part, or some of its columns; its file is kept while the part is
        the one at work."""
        file = self.record(node, part).files[kind]
        if self._held[0] != part:
            self._held = (part, {})
        held = self._held[1]
        if file["name"] not in held:
            held[file["name"]] = self._bytes_of(node, file)
        return read_parquet(pa.BufferReader(held[file["name"]]), columns)

    def _bytes_of(self, node: str, file: FileRecord) -> bytes | memoryview:
        """A file of a part. Of one that others share the first part is read alone: who reads many
        parts asks for the next."""
        folder = self.layout.store(node).folder
        if self._many and "start" in file:
            name, whole = self._shared.get(node, ("", {}))
            if name == file["name"]:
                return cut_checked(folder, file, whole)
            self._shared[node] = file["name"], {}
        return read_checked(folder, file)

    def _table(self, node: str, part: int, columns: Sequence[str]) -> pa.Table:
        names = list(dict.fromkeys(columns))
        table = self.table(node, part, columns=names)
        if _DIGEST in names and _DIGEST not in table.column_names:
            # A part of a time before it was kept.
            table = table.append_column(_DIGEST, pa.nulls(len(table), pa.string()))
        return table.select(names)

    def _join(self, table: pa.Table, node: str, part: int, columns: Sequence[str]) -> pa.Table:
        """Add columns of a Score or Global node; rows that it does not have leave."""
        record = self.record(node, part)
        if not columns and not record.dropped:
            return table
        plain = [name for name in columns if name not in record.files]
        scores = self._table(node, part, [_UID, *plain])
        index = pc.index_in(table[_UID], scores[_UID])
        there = pc.is_valid(index)
        index, table = index.filter(there), table.filter(there)
        taken = scores.take(index)
        for name in columns:
            if name in record.files:
                array = self.layout.store(node).array(record, name)[index.to_numpy()]
                values = pa.FixedSizeListArray.from_arrays(
                    pa.array(array.reshape(-1)), array.shape[1]
                )
                table = table.append_column(name, values)
            else:
                table = table.append_column(taken.schema.field(name), taken[name])
        return table

    def images(self, node: str, table: pa.Table) -> list[bytes]:
        """Stored bytes of rows that have `part`, `blob_offset`, `blob_size`, read in few pieces.

        None is shorter than it was stored, or, where `stored_sha256` is there, other than it was:
        that is a `StorageError`, and says nothing about a row.
        """
        holder = self.image_node(node)
        store = self.layout.store(holder)
        parts = table["part"].to_numpy()
        offsets, sizes = table["blob_offset"].to_numpy(), table["blob_size"].to_numpy()
        digests = table[_DIGEST].to_pylist() if _DIGEST in table.column_names else None
        found: list[bytes] = [b""] * len(parts)
        groups: list[_Group] = []
        for part in np.unique(parts):
            rows = np.flatnonzero(parts == part)
            name = self.record(holder, int(part)).files[BLOBS]["name"]
            rows = rows[np.argsort(offsets[rows], kind="stable")]
            for group in _runs(rows, offsets, sizes):
                pieces = [
                    (int(offsets[row]), int(sizes[row]), digests[row] if digests else None)
                    for row in group
                ]
                groups.append((name, group, pieces))
        for some in _at_once(groups):
            fetched = store.folder.read_ranges([(name, *_span(pieces)) for name, _, pieces in some])
            for (name, group, pieces), data in zip(some, fetched, strict=True):
                cut = functools.partial(_cut_or_read, store.folder, name, pieces, [data])
                for row, piece in zip(group, insist(store.folder, name, cut), strict=True):
                    found[row] = piece
        return found

    def image_node(self, node: str) -> str:
        """The nearest Map above `node` that stores pictures."""
        dag = self.layout.dag
        return [n for n in dag.upstream(node) if stores_images(dag.stage(n))][-1]


def _runs(
    rows: NDArray[np.intp], offsets: NDArray[np.int64], sizes: NDArray[np.int64]
) -> list[NDArray[np.intp]]:
    """Rows sorted by offset, split where the gap is not worth reading."""
    gaps = offsets[rows[1:]] - (offsets[rows[:-1]] + sizes[rows[:-1]])
    return np.split(rows, np.flatnonzero(gaps > _MERGE_GAP) + 1)


def _at_once(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """Groups that are fetched side by side: as many as memory allows."""
    some: list[_Group] = []
    held = 0
    for group in groups:
        size = _span(group[2])[1]
        if some and held + size > _AT_ONCE:
            yield some
            some, held = [], 0
        some.append(group)
        held += size
    if some:
        yield some


def _span(pieces: Sequence[_Piece]) -> tuple[int, int]:
    """Start and size of what holds all pieces."""
    start = pieces[0][0]
    return start, max(at + size for at, size, _ in pieces) - start


def _cut_or_read(
    folder: Folder, name: str, pieces: Sequence[_Piece], fetched: list[bytes | None]
) -> list[bytes]:
    """Pieces of a file, in order of their offsets, out of what was fetched; if that did not come
    whole, or when this is called again, by a read. Raises `WrongBytesError` for one that is not
    what was stored."""
    start, span = _span(pieces)
    data = fetched.pop() if fetched else None
    if data is None or len(data) != span:
        data = folder.read_range(name, start, span)
    found: list[bytes] = []
    for number, (at, size, digest) in enumerate(pieces):
        if number and pieces[number - 1][:2] == (at, size):
            found.append(found[-1])
            continue
        piece = data[at - start : at - start + size]
        if digest is not None and hashlib.sha256(piece).hexdigest() != digest:
            raise WrongBytesError(f"has other bytes at {at} than were written there")
        found.append(piece)
    return found


def make_scratch(layout: RunLayout) -> str:
    """A new local folder for temporary files: on the run's own disk if that is local."""
    place = layout.folder.local_path("scratch")
    if place is not None:
        os.makedirs(place, exist_ok=True)
    return tempfile.mkdtemp(prefix="gristmill-", dir=place)
