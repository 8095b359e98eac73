"""An object that is written only if nobody else wrote it meanwhile: what a lock on an object store
is made of.

S3 has it as If-None-Match and If-Match of a put, Google's store as `ifGenerationMatch`. Other
stores, and old servers that speak S3, have not: some refuse such a put, and some do it whatever
lies there, so that a store is tried before it is believed.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any, Protocol, cast
from urllib.parse import quote

from fsspec.asyn import sync

from gristmill.pipelines.patience import heard, patiently
from gristmill.pipelines.storage import Folder, protocols


class _Store(Protocol):
    """One object of a store; a version of it has a tag that no other version has."""

    # What is no version's tag.
    no_tag: str

    def read(self) -> tuple[bytes, str] | None:
        """Bytes and tag of what lies there."""

    def put(self, data: bytes, over: str | None) -> str | None:
        """Write in one request over the version `over`, or where nothing lies if it is None. The
        new tag; None if something else lies there. A store may raise `NotImplementedError`."""


class ConditionalObject:
    """One object of a store. No two versions of it may hold the same bytes."""

    def __init__(self, folder: Folder, store: _Store) -> None:
        self._folder, self._store = folder, store

    def read(self) -> tuple[bytes, str] | None:
        """Bytes and tag of what lies there; None if nothing does."""
        with self._folder.reaching():
            return patiently(self._store.read)

    def put(self, data: bytes, *, over: str | None) -> str | None:
        """Write over the version with the tag `over`, or where nothing lies if it is None.

        The new tag; None if something else lies there. That may be a try of ours whose answer was
        lost: the bytes say whose it is. Raises `NotImplementedError` where the store has no such
        put, and `StorageError`.
        """
        with self._folder.reaching():
            return patiently(lambda: self._store.put(data, over))

    def put_once(self, data: bytes, *, over: str, within_s: float) -> str | None:
        """As `put`, without trying again what may heal, nor waiting longer than so many seconds."""
        with self._folder.reaching():
            return heard(lambda: self._store.put(data, over), within_s)

    def keeps_conditions(self, data: bytes) -> bool:
        """Whether the store, in which an object lies here, refuses what it must: `data` where
        nothing lies, and over a version that never was."""
        try:
            taken = [self.put(data, over=None), self.put(data, over=self._store.no_tag)]
        except NotImplementedError:
            return False
        return taken == [None, None]


def conditional_object(folder: Folder, name: str) -> ConditionalObject | None:
    """The object `name` of a folder; None where the file system has no conditional put."""
    names = set(protocols(folder.fs))
    for kinds, store in _STORES:
        if names & kinds:
            return ConditionalObject(folder, store(folder.fs, folder.join(name)))
    return None


class _S3:
    no_tag = f'"{32 * "0"}"'

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        bucket, key, _ = fs.split_path(path)
        self._place = {"Bucket": bucket, "Key": key}

    def read(self) -> tuple[bytes, str] | None:
        async def get() -> tuple[bytes, str]:
            # Bytes and tag of one answer: between two requests somebody may write.
            answer = await self._fs._call_s3("get_object", **self._place)
            async with answer["Body"] as body:
                return bytes(await body.read()), str(answer["ETag"])

        try:
            return cast("tuple[bytes, str]", sync(self._fs.loop, get))
        except FileNotFoundError:
            return None

    def put(self, data: bytes, over: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        try:
            answer = self._fs.call_s3("put_object", **self._place, Body=data, **condition)
        except OSError as error:
            code = _s3_code(error)
            # No such key: what was to be written over is gone.
            if code in ("PreconditionFailed", "412", "NoSuchKey"):
                return None
            if code in ("NotImplemented", "501"):
                raise NotImplementedError(str(error)) from error
            raise
        return str(answer["ETag"])


def _s3_code(error: OSError) -> str:
    """The code of S3's answer, which s3fs hands on as the cause of its own exception."""
    answer = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


class _Gcs:
    # The generation of a time long gone.
    no_tag = "1"

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self._bucket, self._key, _ = fs.split_path(path)

    def read(self) -> tuple[bytes, str] | None:
        try:
            headers, data = self._fs.call("GET", self._fs.url(self._path))
        except FileNotFoundError:
            return None
        return bytes(data), str(headers["X-Goog-Generation"])

    def put(self, data: bytes, over: str | None) -> str | None:
        try:
            # gcsfs itself knows the condition for objects that are new alone.
            answer = self._fs.call(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{quote(self._bucket, safe='')}/o",
                uploadType="media",
                name=self._key,
                ifGenerationMatch=over or "0",
                headers={"Content-Type": "application/json"},
                data=data,
                json_out=True,
            )
        except FileExistsError:
            # What it makes of "precondition failed".
            return None
        return str(answer["generation"])


class _Memory:
    """fsspec's memory of this process, which has no other writers."""

    no_tag = ""
    _writing = threading.Lock()

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path

    def read(self) -> tuple[bytes, str] | None:
        try:
            data = bytes(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def put(self, data: bytes, over: str | None) -> str | None:
        with self._writing:
            there = self.read()
            if (there and there[1]) != over:
                return None
            self._fs.pipe_file(self._path, data)
        return hashlib.sha256(data).hexdigest()


_STORES = (
    ({"s3", "s3a"}, _S3),
    ({"gs", "gcs"}, _Gcs),
    ({"memory"}, _Memory),
)
