"""Where a URL leads: its file system and path there. A file's name is taken as it is: fsspec by
itself reads `a::b.png` as one URL chained to another, and `u[1].parquet` as a pattern."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
from fsspec.asyn import AsyncFileSystem
from fsspec.core import has_magic
from fsspec.dircache import DirCache
from fsspec.utils import glob_translate

from gristmill.errors import StorageError
from gristmill.pipelines.hub import end_silence, refusal

# Errors of names that can be nothing's.
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
# Ways to list all below a folder that pass over what cannot be listed.
_LEAVING_OUT = (fsspec.AbstractFileSystem.find, AsyncFileSystem._find)
# What stands before `::` where fsspec chains file systems.
_CHAINING = (
    "blockcache", "cached", "dir", "filecache", "libarchive", "reference", "simplecache", "tar",
    "zip",
)  # fmt: skip


def locate(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path there."""
    first, chain, _ = url.partition("::")
    if not chain or first.partition("://")[0] in _CHAINING:
        fs, path = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
        # A listing that one thread began before another's put ended would be believed after it.
        if isinstance(cache := getattr(fs, "dircache", None), DirCache):
            cache.use_listings_cache = False
            cache.clear()
        if fs.protocol == "hf":
            end_silence()
        return fs, path
    # The name of one file, with `::` in it.
    protocol = first.partition("://")[0] if "://" in first else "file"
    kind = fsspec.get_filesystem_class(protocol)
    path = str(kind._strip_protocol(url))
    return kind(**kind._get_kwargs_from_urls(url)), path


@contextlib.contextmanager
def open_url(url: str) -> Iterator[IO[bytes]]:
    """The bytes of a file, as they lie there."""
    fs, path = locate(url)
    try:
        with fs.open(path, "rb") as file:
            yield file
    except Exception as error:
        refuse(url, error)
        raise


def refuse(url: str, error: BaseException) -> None:
    """Raise `StorageError`, with the remedy, for an error by which a hub refuses what lies there;
    its file systems call what they may not show not found."""
    if said := refusal(error):
        raise StorageError(f"{url} {said}") from error


def exact(fs: Any) -> dict[str, str]:
    """What `cat_file` of a range is told, so that no more of a file comes than was asked for: a
    file of a hub is opened for it, and reads five million bytes ahead."""
    return {"cache_type": "none"} if fs.protocol == "hf" else {}


def forget_listings(url: str) -> None:
    """Look anew at what a hub holds: its file system remembers listings as long as the process
    lives."""
    if url.startswith("hf://"):
        locate(url)[0].invalidate_cache()


def entry_type(fs: Any, path: str) -> str | None:
    """`file` or `directory` of what lies at a path, None for nothing. Storage that fails on the
    way raises: fsspec's own `exists` and `isdir` would say no."""
    try:
        return str(fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        refuse(fs.unstrip_protocol(path), error)
        return None
    except OSError as error:
        refuse(fs.unstrip_protocol(path), error)
        if error.errno in _NO_NAME:
            return None
        raise


def is_folder(url: str) -> bool:
    """Whether a URL leads to a folder."""
    fs, path = locate(url)
    return entry_type(fs, path) == "directory"


def local_sizes(path: str) -> dict[str, int]:
    """Bytes of each file directly below a local folder, by name."""
    try:
        entries = os.scandir(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    with entries:
        for entry in entries:
            # One may go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
    return found


def entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """What lies directly in a folder, as fsspec tells it; nothing of one that is not there. A
    folder that cannot be listed raises."""
    try:
        found = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Some stores list a folder in itself.
    return [f for f in found if f["type"] != "directory" or _path_of(f) != folder.rstrip("/")]


def files_below(fs: Any, folder: str) -> list[str]:
    """Paths of all files below a folder. A folder that cannot be listed, at any depth, raises:
    fsspec's own walk would leave it out as if it were empty."""
    own = (getattr(type(fs), name, None) for name in ("find", "_find"))
    if any(way not in _LEAVING_OUT for way in own if way is not None):
        # A store that lists all that is below at once, in fewer requests; that raises.
        return [str(path) for path in fs.find(folder)]
    files: list[str] = []
    pending = [folder]
    while pending:
        for fact in entries(fs, pending.pop()):
            (pending if fact["type"] == "directory" else files).append(_path_of(fact))
    return files


def matching(fs: Any, pattern: str) -> list[str]:
    """Paths that match a pattern of fsspec's, sorted; below `a/**` lies not `a` itself.

    Only folders are listed that may hold such. One that cannot be listed raises, where fsspec's own
    `glob` would leave it out.
    """
    pattern = str(fs._strip_protocol(pattern))
    if not has_magic(pattern):
        return [pattern] if entry_type(fs, pattern) else []
    parts = pattern.split("/")
    whole = re.compile(glob_translate(pattern))
    depth = next(i for i, part in enumerate(parts) if has_magic(part))
    found: list[str] = []
    pending = [("/".join(parts[:depth]) or "/" * (depth > 0), depth)]
    while pending:
        folder, depth = pending.pop()
        part = re.compile(glob_translate("/".join(parts[: depth + 1])))
        below = any("**" in part for part in parts[: depth + 1])
        for fact in entries(fs, folder):
            path = _path_of(fact)
            if whole.match(path):
                found.append(path)
            if fact["type"] == "directory" and (
                below or (depth + 1 < len(parts) and part.match(path))
            ):
                pending.append((path, depth + 1))
    return sorted(found)


def _path_of(fact: Mapping[str, Any]) -> str:
    return str(fact["name"]).rstrip("/")


def unpack(file: IO[bytes]) -> IO[bytes] | None:
    """A file that is packed by gzip, bzip2, xz, Zstandard, LZ4 or zip (its first member), unpacked
    as it is read; None for any other."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(file))
    if start.startswith((b"\xfd7zXZ", b"\x5d\0\0\x80")):
        return cast("IO[bytes]", lzma.LZMAFile(file))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
    if start.startswith(b"\x04\x22\x4d\x18"):
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(file, "r"), "lz4"))
    if start.startswith(b"PK\3\4"):
        archive = zipfile.ZipFile(file)
        return archive.open(archive.namelist()[0])
    return None
