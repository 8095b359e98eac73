"""One storage layer over fsspec: everything is written whole or not at all.

On a local file system a file is written beside its place and renamed into it. On an object store
the object is put in one piece (or by a completed multipart upload), which is atomic there. What a
reader may trust is named by a small commit record, written last; see
`gristmill.dags.engine.run_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import DiskFullError, GristmillError, StorageError
from gristmill.pipelines.locate import locate

# Libraries whose exceptions mean that a store was not reached, or would not answer.
_STORES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "gcsfs",
    "google",
    "requests",
    "urllib3",
    "httpx",
    "huggingface_hub",
    "adlfs",
    "azure",
    "asyncio",
    "fsspec",
)
# Bytes up to which an object is put by one request.
_ONE_PIECE = 64 * 2**20


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _remote(method: _Method) -> _Method:
    """What fails on the way to a store is said in our words, after the store's own retries."""

    @functools.wraps(method)
    def reach(self: Folder, *args: Any, **kwargs: Any) -> Any:
        if self.is_local:
            return method(self, *args, **kwargs)
        with self.reaching():
            return method(self, *args, **kwargs)

    return cast(_Method, reach)


class Folder:
    """A folder on any fsspec file system. Names are relative, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.fs, path = locate(str(url))
        self.path: str = path.rstrip("/") or "/"
        self.is_local: bool = "file" in _protocols(self.fs)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return (Folder, (self.url,))

    @property
    def url(self) -> str:
        """The folder's full URL (a plain path on a local file system)."""
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    def sub(self, name: str) -> Folder:
        """The folder `name` below this one."""
        return Folder(self.join_url(name))

    def join(self, name: str) -> str:
        """`name` as a path of this file system."""
        return f"{self.path}/{name}" if name else self.path

    def join_url(self, name: str) -> str:
        """`name` as a URL that `Folder` or `fsspec.open` takes."""
        return f"{self.url}/{name}"

    def local_path(self, name: str = "") -> str | None:
        """Path in the local file system, or None if this folder lies elsewhere."""
        return self.join(name) if self.is_local else None

    @_remote
    def exists(self, name: str = "") -> bool:
        """Whether the file or folder is there."""
        return bool(self.fs.exists(self.join(name)))

    @_remote
    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.fs.size(self.join(name)))

    @_remote
    def names(self, under: str = "") -> list[str]:
        """Names of files and folders directly below `under`, sorted; empty if there is none."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self.join(under), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith(".writing-"))

    @_remote
    def walk(self, under: str = "") -> list[str]:
        """Names, relative to this folder, of all files below `under`, sorted."""
        self.fs.invalidate_cache()
        prefix = self.path.rstrip("/") + "/"
        found = (str(path) for path in self.fs.find(self.join(under)))
        names = (path[len(prefix) :] if path.startswith(prefix) else path for path in found)
        return sorted(name for name in names if "/.writing-" not in f"/{name}")

    def unfinished(self, under: str = "") -> list[str]:
        """Files below `under` that somebody writes now, or was killed while writing; `names` and
        `walk` hide them."""
        if not self.is_local:
            return []
        found = (
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, names in os.walk(self.join(under))
            for name in names
            if name.startswith(".writing-")
        )
        return sorted(found)

    @_remote
    def open(self, name: str) -> IO[bytes]:
        """A file for reading."""
        opened: IO[bytes] = self.fs.open(self.join(name), "rb")
        return opened

    @contextlib.contextmanager
    def reaching(self) -> Iterator[None]:
        """Raises `StorageError` for whatever goes wrong between us and a store."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, GristmillError, pa.ArrowException):
            raise
        except Exception as error:
            # Each store's library has network errors of its own, few of them an OSError.
            room = (type(error).__module__ or "").partition(".")[0]
            if isinstance(error, OSError) or room in _STORES:
                text = " ".join(str(error).split())[:300]
                raise StorageError(
                    f"{self.url} cannot be reached ({type(error).__name__}: {text}); everything "
                    "committed stays: run the same command again when it is back"
                ) from error
            raise

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write that appears under `name` only if the block ends without an error."""
        target = self.join(name)
        if not self.is_local:
            # Put in one piece, or as a multipart upload that is completed last: both appear whole.
            with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
                yield file
                file.flush()
                with self.reaching():
                    if file.tell() <= _ONE_PIECE:
                        file.seek(0)
                        self.fs.pipe_file(target, file.read())
                    else:
                        self.fs.put_file(file.name, target)
            return
        folder, base = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        writing = os.path.join(folder, f".writing-{base}-{uuid.uuid4().hex[:8]}")
        try:
            with open(writing, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(writing, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no room left while writing {target}; everything committed stays: "
                    "make room and run the same command again"
                ) from error
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(writing)

    @_remote
    def read_bytes(self, name: str) -> bytes:
        """A whole file."""
        return bytes(self.fs.cat_file(self.join(name)))

    @_remote
    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start`."""
        return bytes(self.fs.cat_file(self.join(name), start=start, end=start + size))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file whole."""
        with self.output(name) as file:
            file.write(data)

    def read_json(self, name: str) -> Any:
        """A JSON file."""
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: object) -> None:
        """Write JSON, indented, whole."""
        self.write_bytes(name, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    @_remote
    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns, in the order named."""
        with self.open(name) as file:
            return pq.ParquetFile(file).read(columns=list(columns) if columns is not None else None)

    @_remote
    def read_schema(self, name: str) -> pa.Schema:
        """Schema of a Parquet file."""
        with self.open(name) as file:
            return pq.read_schema(file)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole; the same table always gives the same bytes."""
        with self.output(name) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=65536)

    @_remote
    def remove(self, name: str = "") -> None:
        """Remove a file or a folder with all it holds; no error if it is not there."""
        path = self.join(name)
        if self.is_local:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        elif self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def free_bytes(self) -> int | None:
        """Free bytes of a local disk; None where the question has no answer."""
        if not self.is_local:
            return None
        path = self.path
        while not os.path.exists(path):
            path = os.path.dirname(path)
        return shutil.disk_usage(path).free


class Digest(Protocol):
    """What hashlib and xxhash give."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """What they come to."""


class DigestWriter:
    """A file to write, in order only, that keeps the digest and the size of what went through."""

    closed = False

    def __init__(self, file: IO[bytes], digest: Digest) -> None:
        self._file, self.digest, self.size = file, digest, 0

    def write(self, data: Any) -> int:
        """Write and digest."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def flush(self) -> None:
        """Flush the file beneath."""
        self._file.flush()

    def close(self) -> None:
        """Closed by whoever opened the file."""

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Never."""
        return False


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
