"""Files that a record names are read as the record says they were written, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import xxhash

from gristmill.dags.engine.records import FileRecord
from gristmill.errors import StorageError
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.patience import WrongBytesError, is_of_storage, waits
from gristmill.pipelines.storage import Folder

_Found = TypeVar("_Found")


def read_checked(folder: Folder, file: FileRecord) -> bytes:
    """The bytes of a file; `StorageError` if it stays away, or is not what was written."""

    def read() -> bytes:
        if "start" in file:
            data = folder.read_range(file["name"], file["start"], file["size"])
        else:
            data = folder.read_bytes(file["name"])
        _require(file, len(data), xxhash.xxh3_128_hexdigest(data))
        return data

    return insist(folder, file["name"], read)


def cut_checked(folder: Folder, file: FileRecord, whole: dict[str, bytes]) -> memoryview:
    """The bytes of a part that shares its file with others, for whoever reads these as well: the
    file is read once, and stays in `whole` by its name, alone."""
    name, start = file["name"], file["start"]

    def read() -> memoryview:
        if name not in whole:
            whole.clear()
            whole[name] = folder.read_bytes(name)
        data = memoryview(whole[name])[start : start + file["size"]]
        try:
            _require(file, len(data), xxhash.xxh3_128_hexdigest(data))
        except WrongBytesError:
            whole.clear()
            raise
        return data

    return insist(folder, name, read)


def copy_checked(folder: Folder, file: FileRecord, path: str) -> None:
    """Copy a file to a local path; `StorageError` if it stays away, or is not what was written."""

    def copy() -> None:
        with open(path, "wb") as local:
            writer = DigestWriter(local, xxhash.xxh3_128())
            for piece in folder.pieces(file["name"], file["size"]):
                writer.write(piece)
        _require(file, writer.size, writer.digest.hexdigest())

    insist(folder, file["name"], copy)


def what_is_wrong(folder: Folder, file: FileRecord) -> str:
    """Why a file is not what its record says, in words; empty if it is. Reads all of it."""
    digest, size = xxhash.xxh3_128(), 0
    try:
        for piece in _pieces(folder, file):
            digest.update(piece)
            size += len(piece)
        _require(file, size, digest.hexdigest())
    except FileNotFoundError:
        return "is missing"
    except WrongBytesError as error:
        return str(error)
    except (StorageError, OSError) as error:
        return f"cannot be read: {error}"
    return ""


def _pieces(folder: Folder, file: FileRecord) -> Iterator[bytes]:
    """All of a file, and what there is beyond it; a part that shares its file is small."""
    if "start" in file:
        # A file that ends before it is none that stays away.
        if folder.size(file["name"]) >= file["start"] + file["size"]:
            yield folder.read_range(file["name"], file["start"], file["size"])
    else:
        yield from folder.pieces(file["name"], file["size"])


def insist(folder: Folder, name: str, read: Callable[[], _Found]) -> _Found:
    """What `read` returns of a file that must be there; tried again where it is not, or is wrong:
    a share that was away for a moment shows an empty folder."""
    again = waits()
    while True:
        try:
            return read()
        except Exception as error:
            if isinstance(error, StorageError) or not is_of_storage(error):
                raise
            problem = "is missing" if isinstance(error, FileNotFoundError) else str(error)
            if not again(WrongBytesError(problem)):
                raise StorageError(
                    f"{folder.join_url(name)} {problem}: it is part of what was committed; "
                    "gristmill repair does it again"
                ) from error


def _require(file: FileRecord, size: int, digest: str) -> None:
    if size != file["size"]:
        raise WrongBytesError(f"has {size} bytes of the {file['size']} that were written")
    if digest != file["xxh3"]:
        raise WrongBytesError("has another digest than when it was written")
