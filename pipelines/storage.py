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
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import sync

from gristmill.errors import DiskFullError, GristmillError, StorageError
from gristmill.pipelines.locate import entry_type, exact, files_below, local_sizes, locate, refuse
from gristmill.pipelines.patience import WrongBytesError, is_of_storage, patiently

# How tables are written: the same table gives the same bytes.
PARQUET: Any = {"compression": "zstd", "row_group_size": 65536}
# Bytes up to which an object is put by one request.
_ONE_PIECE = 64 * 2**20
_DELETED_AT_ONCE = 1000
_SAID_ALREADY = (FileNotFoundError, FileExistsError, GristmillError, pa.ArrowException)


_Method = TypeVar("_Method", bound=Callable[..., Any])
_Found = TypeVar("_Found")


def _patient(method: _Method) -> _Method:
    """Tried again for a while; what fails for good is said in our words."""

    @functools.wraps(method)
    def reach(self: Folder, *args: Any, **kwargs: Any) -> Any:
        with self.reaching():
            return patiently(lambda: method(self, *args, **kwargs))

    return cast(_Method, reach)


class Folder:
    """A folder on any fsspec file system. Names are relative, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.fs, path = locate(str(url))
        self.path: str = path.rstrip("/") or "/"
        self.is_local: bool = "file" in protocols(self.fs)
        self._is_s3 = "s3" in protocols(self.fs)
        # Of `cat_file`: s3fs asks for the size of a file first, to fetch its pieces side by side.
        self._whole: dict[str, int] = {"max_concurrency": 1} if self._is_s3 else {}
        self._exact = exact(self.fs)

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

    @_patient
    def exists(self, name: str = "") -> bool:
        """Whether the file or folder is there. An error on the way is no "no", as fsspec has it."""
        return entry_type(self.fs, self.join(name)) is not None

    @_patient
    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.fs.size(self.join(name)))

    @_patient
    def names(self, under: str = "") -> list[str]:
        """Names of files and folders directly below `under`, sorted; empty if there is none."""
        try:
            found = self.fs.ls(self.join(under), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith(".writing-"))

    @_patient
    def sizes(self, under: str = "") -> dict[str, int]:
        """Bytes of each file directly below `under`, by name, from one listing."""
        if self.is_local:
            return local_sizes(self.join(under))
        try:
            found = self.fs.ls(self.join(under), detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(fact["name"]).rsplit("/", 1)[-1]: int(fact["size"] or 0)
            for fact in found
            if fact["type"] == "file"
        }

    @_patient
    def walk(self, under: str = "") -> list[str]:
        """Names, relative to this folder, of all files below `under`, sorted."""
        prefix = self.path.rstrip("/") + "/"
        try:
            found = files_below(self.fs, self.join(under))
        except (FileNotFoundError, NotADirectoryError):
            return []
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

    @_patient
    def open(self, name: str) -> IO[bytes]:
        """A file for reading."""
        opened: IO[bytes] = self.fs.open(self.join(name), "rb")
        return opened

    @contextlib.contextmanager
    def reaching(self) -> Iterator[None]:
        """Raises `StorageError` for whatever goes wrong between us and the storage."""
        try:
            yield
        except Exception as error:
            refuse(self.url, error)
            if isinstance(error, _SAID_ALREADY):
                raise
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no room left in {self.url}; everything committed stays: make room and run "
                    "the same command again"
                ) from error
            if isinstance(error, WrongBytesError):
                raise StorageError(
                    f"{self.url}: {error}; of a run, gristmill verify says what else is wrong, and "
                    "gristmill repair does it again"
                ) from error
            # Each store's library has network errors of its own, few of them an OSError.
            if is_of_storage(error):
                text = " ".join(str(error).split())[:300]
                raise StorageError(
                    f"{self.url} cannot be reached ({type(error).__name__}: {text}); everything "
                    "committed stays: run the same command again when it is back"
                ) from error
            raise

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write that appears under `name`, as long as it was written, only if the block
        ends without an error."""
        place = self._local_output if self.is_local else self._remote_output
        with place(name) as file:
            yield file

    @contextlib.contextmanager
    def _local_output(self, name: str) -> Iterator[IO[bytes]]:
        folder, base = os.path.split(self.join(name))
        writing = os.path.join(folder, f".writing-{base}-{uuid.uuid4().hex[:8]}")
        try:
            with self.reaching():
                patiently(lambda: os.makedirs(folder, exist_ok=True))
                with open(writing, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    size = file.tell()
                _require_size(os.path.getsize(writing), size, writing)
                patiently(lambda: os.replace(writing, self.join(name)))
        finally:
            with contextlib.suppress(OSError):
                os.unlink(writing)

    @contextlib.contextmanager
    def _remote_output(self, name: str) -> Iterator[IO[bytes]]:
        """Put in one piece, or as a multipart upload that is completed last: both appear whole."""
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
            yield cast(IO[bytes], file)
            file.flush()
            size = file.tell()

            def put() -> None:
                if size <= _ONE_PIECE:
                    file.seek(0)
                    self.fs.pipe_file(self.join(name), file.read())
                else:
                    self.fs.put_file(file.name, self.join(name))
                if not self._is_s3:
                    # S3 refuses what is not as long as was said, or has another checksum.
                    _require_size(int(self.fs.size(self.join(name))), size, self.join_url(name))

            with self.reaching():
                patiently(put, size=size)

    @_patient
    def read_bytes(self, name: str) -> bytes:
        """A whole file, by one request."""
        return bytes(self.fs.cat_file(self.join(name), **self._whole))

    @_patient
    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Whole files by name, fetched many at once; those that are not there are left out."""
        paths = [self.join(name) for name in names]
        nones = [None] * len(paths)
        found = self.fs.cat_ranges(paths, nones, nones, on_error="return", **self._whole)
        for one in found:
            if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                raise one
        return {
            name: bytes(one)
            for name, one in zip(names, found, strict=True)
            if not isinstance(one, FileNotFoundError)
        }

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """A file that should have `size` bytes, piece by piece, as few as memory allows; of a
        longer one a byte more, of a shorter one what there is."""
        if not size:
            yield self.read_bytes(name)
        at = 0
        while at < size:
            end = size + 1 if size - at <= _ONE_PIECE else at + _ONE_PIECE
            piece = self._piece(name, at, end)
            yield piece
            at += len(piece)
            if at < min(end, size):
                return

    @_patient
    def _piece(self, name: str, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.join(name), start=start, end=end, **self._exact))

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Ranges of files as (name, start, size), fetched many at once; None for one that does not
        come, of which `read_range` says more."""
        paths = [self.join(name) for name, _, _ in ranges]
        starts = [start for _, start, _ in ranges]
        ends = [start + size for _, start, size in ranges]

        def read() -> list[bytes | Exception]:
            found: list[bytes | Exception]
            found = self.fs.cat_ranges(paths, starts, ends, **self._exact)
            return found

        with self.reaching():
            found = patiently(read, size=sum(size for _, _, size in ranges))
        return [None if isinstance(one, Exception) else bytes(one) for one in found]

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start`, no fewer: `StorageError` if the file ends before."""

        def read() -> bytes:
            path, end = self.join(name), start + size
            data = bytes(self.fs.cat_file(path, start=start, end=end, **self._exact))
            if len(data) != size:
                raise WrongBytesError(f"{len(data)} of {size} bytes from {start} of {name}")
            return data

        with self.reaching():
            return patiently(read, size=size)

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

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns, in the order named."""
        return self._parsed(name, lambda file: read_parquet(file, columns))

    def read_schema(self, name: str) -> pa.Schema:
        """Schema of a Parquet file."""
        return self._parsed(name, pq.read_schema)

    @_patient
    def _parsed(self, name: str, parse: Callable[[IO[bytes]], _Found]) -> _Found:
        try:
            if not self.is_local:
                # Footer and columns of a small table, by one request.
                return parse(io.BytesIO(self.fs.cat_file(self.join(name), **self._whole)))
            with self.fs.open(self.join(name), "rb") as file:
                return parse(file)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowSerializationError) as error:
            raise WrongBytesError(
                f"{name} is no whole Parquet file: {' '.join(str(error).split())[:200]}"
            ) from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole; the same table always gives the same bytes."""
        with self.output(name) as file:
            pq.write_table(table, file, **PARQUET)

    @_patient
    def remove(self, name: str = "") -> None:
        """Remove a file or a folder with all it holds; no error if it is not there."""
        path = self.join(name)
        if self.is_local:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        elif self._is_s3:
            self._delete(files_below(self.fs, path))
        elif self.exists(name):
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(path, recursive=True)

    @_patient
    def remove_files(self, names: Sequence[str]) -> None:
        """Remove files, many by one request where the store can; no error for one that is not
        there. A folder is not looked for."""
        paths = [self.join(name) for name in names]
        if self._is_s3:
            self._delete(paths)
            return
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path) if self.is_local else self.fs.rm_file(path)

    def _delete(self, paths: Sequence[str]) -> None:
        """Objects of S3, a thousand a request. By itself s3fs looks at each before."""
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            some = list(paths[start : start + _DELETED_AT_ONCE])
            sync(self.fs.loop, self.fs._bulk_delete, some)

    def free_bytes(self) -> int | None:
        """Free bytes of a local disk; None where the question has no answer."""
        if not self.is_local:
            return None
        path = self.path
        while not os.path.exists(path):
            path = os.path.dirname(path)
        return shutil.disk_usage(path).free


def read_parquet(file: IO[bytes] | pa.NativeFile, columns: Sequence[str] | None) -> pa.Table:
    """A Parquet file, or some of its columns."""
    return pq.ParquetFile(file).read(columns=list(columns) if columns is not None else None)


def _require_size(found: int, written: int, name: str) -> None:
    """What is shorter than it was written is not there."""
    if found != written:
        raise WrongBytesError(f"{name} has {found} bytes of {written} that were written")


def protocols(fs: Any) -> tuple[str, ...]:
    """The names that a file system goes by."""
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
