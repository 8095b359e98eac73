"""What a phase saves for those after it: arrays and tables, each file with its digest at its end,
so that what was changed meanwhile is not taken for what was saved.

Files of a time before lie beside a fact (`NAME.json`) instead.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from gristmill.dags.engine.checked import insist
from gristmill.dags.engine.records import FileRecord
from gristmill.pipelines.array_files import pack_arrays, unpack_arrays
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.patience import WrongBytesError
from gristmill.pipelines.sealed import read_sealed
from gristmill.pipelines.storage import PARQUET, Folder, read_parquet

_Found = TypeVar("_Found")

_MARK = b"\nxxh3 "
_SEAL = len(_MARK) + 32
# Memory-mapped files whose digest was found right by this process: path, time.
_right: set[tuple[str, int]] = set()
# Where the parts of a file begin and what they are, of files that this process has read from.
_indexes: dict[str, NDArray[np.uint64]] = {}


@contextlib.contextmanager
def sealed_output(folder: Folder, name: str) -> Iterator[tuple[DigestWriter, FileRecord]]:
    """A file to write that gets its digest at its end, and the record of it, filled after the
    block."""
    record: FileRecord = {"name": name, "size": 0, "xxh3": ""}
    with folder.output(name) as file:
        writer = DigestWriter(file, xxhash.xxh3_128())
        yield writer, record
        writer.write(_MARK + writer.digest.hexdigest().encode())
    record["size"], record["xxh3"] = writer.size, writer.digest.hexdigest()


def write_array(file: DigestWriter, array: NDArray[np.generic]) -> None:
    """Write an array as .npy."""
    np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def write_table(file: DigestWriter, table: pa.Table) -> None:
    """Write a table as Parquet."""
    pq.write_table(table, pa.PythonFile(file, "w"), **PARQUET)


def write_parts(
    file: DigestWriter, parts: Iterable[Mapping[str, NDArray[np.generic]]]
) -> NDArray[np.uint64]:
    """Write the arrays of each part, one part after the other; returns the index [parts + 1, 3] of
    where each ends and of its digest, by which `load_saved_part` reads one alone."""
    index = [(0, 0, 0)]
    for arrays in parts:
        data = pack_arrays(arrays)
        file.write(data)
        digest = xxhash.xxh3_128_intdigest(data)
        index.append((index[-1][0] + len(data), digest >> 64, digest & (2**64 - 1)))
    return np.array(index, np.uint64)


def load_saved_table(folder: Folder, name: str) -> pa.Table:
    """A saved table."""
    return _read(folder, name, lambda data: read_parquet(pa.BufferReader(data), None))


def load_saved_array(folder: Folder, name: str) -> NDArray[np.generic]:
    """A saved array: memory-mapped, and looked through once a process; one that lies elsewhere is
    read whole."""
    return _read(folder, name, _parse_array)


def load_saved_arrays(folder: Folder, name: str) -> dict[str, NDArray[np.generic]]:
    """Arrays that were saved together, likewise."""
    return _read(folder, name, unpack_arrays)


def load_saved_part(folder: Folder, name: str, part: int) -> dict[str, NDArray[np.generic]]:
    """The arrays of one part, of which nothing else is read."""
    path, url = folder.local_path(name), folder.join_url(name)

    def read() -> dict[str, NDArray[np.generic]]:
        index = _index(folder, name)
        try:
            start, end = int(index[part][0]), int(index[part + 1][0])
            if path is None:
                data = memoryview(folder.read_range(name, start, end - start))
                seen = None
            else:
                data = _mapped(path)[start:end]
                seen = (f"{path}:{part}", os.stat(path).st_mtime_ns)
            if seen not in _right:
                _require_part(data, index, part)
            if seen is not None:
                _right.add(seen)
        except Exception:
            # It may be the index of what lay there before.
            _indexes.pop(url, None)
            raise
        return unpack_arrays(data)

    return insist(folder, name, read)


def load_saved_parts(folder: Folder, name: str) -> Iterator[dict[str, NDArray[np.generic]]]:
    """The arrays of each part in order, of a file that is read once; memory-mapped, if it is
    local."""

    def read() -> tuple[memoryview, NDArray[np.uint64]]:
        # That of what lay there before says nothing.
        _indexes.pop(folder.join_url(name), None)
        index = _index(folder, name)
        path = folder.local_path(name)
        data = memoryview(folder.read_bytes(name)) if path is None else _mapped(path)
        for part in range(len(index) - 1):
            _require_part(data[int(index[part][0]) : int(index[part + 1][0])], index, part)
        return data, index

    data, index = insist(folder, name, read)
    for part in range(len(index) - 1):
        yield unpack_arrays(data[int(index[part][0]) : int(index[part + 1][0])])


def _index(folder: Folder, name: str) -> NDArray[np.uint64]:
    """Where the parts of a file end, and their digests; read once a process."""
    url = folder.join_url(name)
    if url not in _indexes:
        _indexes[url] = np.array(load_saved_array(folder, index_name(name)), np.uint64)
    return _indexes[url]


def _require_part(data: memoryview, index: NDArray[np.uint64], part: int) -> None:
    start, (end, high, low) = int(index[part][0]), map(int, index[part + 1])
    if len(data) != end - start or xxhash.xxh3_128_intdigest(data) != high << 64 | low:
        raise WrongBytesError(f"has other bytes at {start} than were written there")


def index_name(name: str) -> str:
    """Where the index of a file of parts lies."""
    return f"{name}.index.npy"


def _read(folder: Folder, name: str, parse: Callable[[memoryview], _Found]) -> _Found:
    """What `parse` makes of a saved file without its seal."""
    path = folder.local_path(name)

    def read() -> _Found:
        data = memoryview(folder.read_bytes(name)) if path is None else _mapped(path)
        seen = (path, os.stat(path).st_mtime_ns) if path is not None else None
        payload, digest = data[:-_SEAL], data[-_SEAL:]
        if bytes(digest[: len(_MARK)]) != _MARK:
            payload, digest = data, _fact_of(folder, name)
        if digest and seen not in _right:
            if xxhash.xxh3_128_hexdigest(payload).encode() != bytes(digest[-32:]):
                raise WrongBytesError("has another digest than when it was written")
            if seen is not None:
                _right.add(seen)
        try:
            return parse(payload)
        except (ValueError, KeyError, pa.ArrowInvalid) as error:
            raise WrongBytesError(f"cannot be read: {error}") from error

    return insist(folder, name, read)


def _mapped(path: str) -> memoryview:
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def fact_name(name: str) -> str:
    """Where the fact about a saved file of a time before lies."""
    return f"{name}.json"


def _fact_of(folder: Folder, name: str) -> memoryview:
    """The digest that a fact tells; empty if it is of a time before facts."""
    try:
        file = cast(FileRecord, read_sealed(folder, fact_name(name)))
    except FileNotFoundError:
        return memoryview(b"")
    return memoryview(file["xxh3"].encode())


def _parse_array(data: memoryview) -> NDArray[np.generic]:
    """A .npy file, as a view of its bytes."""
    head = io.BytesIO(data[: 64 * 1024])
    version = np.lib.format.read_magic(head)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, by_column, kind = read(head)
    count = int(np.prod(shape, dtype=np.int64))
    found = np.frombuffer(data[head.tell() :], kind, count) if count else np.zeros(0, kind)
    return found.reshape(shape, order="F" if by_column else "C")
