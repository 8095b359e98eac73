"""Where a URL leads: its file system and path there. A file's name is taken as it is: fsspec by
itself reads `a::b.png` as one URL chained to another, and `u[1].parquet` as a pattern."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import zipfile
from collections.abc import Iterator
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
from fsspec.dircache import DirCache

# Errors of names that can be nothing's.
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
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
    with fs.open(path, "rb") as file:
        yield file


def entry_type(fs: Any, path: str) -> str | None:
    """`file` or `directory` of what lies at a path, None for nothing. Storage that fails on the
    way raises: fsspec's own `exists` and `isdir` would say no."""
    try:
        return str(fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        if error.errno in _NO_NAME:
            return None
        raise


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


def matching(fs: Any, pattern: str) -> list[str]:
    """Paths that match a pattern, sorted. A folder that cannot be listed raises."""
    # By itself fsspec leaves such a folder out.
    strict = {} if getattr(fs, "async_impl", False) else {"on_error": "raise"}
    try:
        return sorted(str(name) for name in fs.glob(pattern, **strict))
    except (FileNotFoundError, NotADirectoryError):
        return []


def unpack(file: IO[bytes]) -> IO[bytes] | None:
    """A file that is packed by gzip, bzip2, xz, Zstandard or zip (its first member), unpacked as it
    is read; None for any other."""
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
    if start.startswith(b"PK\3\4"):
        archive = zipfile.ZipFile(file)
        return archive.open(archive.namelist()[0])
    return None
