"""Checks a shard set against its manifest and against what readers rely on."""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import GristmillError, ShardError
from gristmill.pipelines.download.strip_metadata import format_of
from gristmill.pipelines.media import (
    MULTI_IMAGE,
    PIECE_DIGESTS,
    STORED_MULTI_IMAGE,
    TOKEN_COLUMNS,
)
from gristmill.pipelines.shards.manifest import FileFact, ShardFact
from gristmill.pipelines.shards.reader import FORGOTTEN, read_manifest
from gristmill.pipelines.shards.tar import read_members
from gristmill.pipelines.storage import Folder

_CHUNK = 512 * 2**10
_THREADS = 8
# What reading raises of bytes that are not what they should be.
_UNREADABLE = (
    tarfile.TarError,
    pa.ArrowException,
    GristmillError,
    OSError,
    ValueError,
    KeyError,
)
_TEXTS = ("json", "txt")
# What no manifest names: itself, what is to be forgotten, what a set that was published has beside.
_BESIDE = {"manifest.json", FORGOTTEN, "README.md", ".gitattributes"}


def verify_shards(url: str) -> list[str]:
    """Everything wrong with a set, in words; empty if all is well. Streams; needs little memory."""
    folder = Folder(url)
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        return [str(error)]
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    media = manifest.get("media", "image") if manifest.get("pictures", True) else ""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        # Digests of large pieces are made beside one another.
        look = functools.partial(_look, folder, media, manifest["format"])
        found = list(pool.map(look, shards))
        files = list(pool.map(functools.partial(_check_file, folder), manifest["files"]))
    problems = [problem for one in found for problem in one.of_file]
    problems += [problem for some in files for problem in some]
    named = {fact["name"] for fact in [*shards, *manifest["files"]]} | _BESIDE
    problems += [
        f"{url}/{name} is not in the manifest" for name in folder.walk() if name not in named
    ]
    if problems:
        return problems
    seen: set[str] = set()
    for shard, one in zip(shards, found, strict=True):
        problems += one.of_content
        if one.keys is None:
            continue
        keys = one.keys
        if len(keys) != shard["samples"]:
            problems.append(
                f"{url}/{shard['name']} has {len(keys)} samples, the manifest says "
                f"{shard['samples']}"
            )
        repeated = seen & set(keys)
        if repeated:
            problems.append(f"{url}/{shard['name']} repeats the key {min(repeated)}")
        seen |= set(keys)
    return problems


@dataclass
class _Looked:
    """What is wrong with a shard: its file, its samples; their keys, if they were read."""

    of_file: list[str]
    of_content: list[str]
    keys: list[str] | None = None


def _look(folder: Folder, media: str, kind: str, fact: ShardFact) -> _Looked:
    """Look through a shard: a tar in one go, digest and samples."""
    found = _Looked([], [])

    def samples(read: Callable[[_Shard], list[str]]) -> None:
        try:
            found.keys = read(_Shard(folder, fact["name"], media, found.of_content))
        except _UNREADABLE as error:
            # Often enough because the bytes are not those of the manifest, which is said then.
            found.of_content.append(f"{folder.url}/{fact['name']} cannot be read: {error}")

    if kind == "webdataset":
        found.of_file = _check_file(
            folder, fact, lambda file: samples(lambda shard: shard.tar_keys(file))
        )
    else:
        found.of_file = _check_file(folder, fact)
        if not found.of_file:
            samples(lambda shard: shard.parquet_keys())
    return found


class _Digesting:
    """A file that is digested as it is read, in large pieces."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0
        # No piece of it is longer.
        self._most = most
        # One buffer, and what of it was not handed out yet.
        self._buffer = memoryview(bytearray(_CHUNK))
        self._at = self._end = 0

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end."""
        if size > self._most:
            raise tarfile.ReadError(f"a member of {size} bytes in a file of {self._most}")
        if self._at + size <= self._end:
            self._at += size
            return bytes(self._buffer[self._at - size : self._at])
        pieces = [bytes(self._buffer[self._at : self._end])]
        left = size - len(pieces[0])
        while left and self._next():
            self._at = min(left, self._end)
            pieces.append(bytes(self._buffer[: self._at]))
            left -= self._at
        return b"".join(pieces)

    def rest(self) -> None:
        """Read to the end."""
        while self._next():
            pass

    def _next(self) -> int:
        self._at, self._end = 0, self._file.readinto(self._buffer)  # type: ignore[attr-defined]
        self.digest.update(self._buffer[: self._end])
        self.size += self._end
        return self._end


def _check_file(
    folder: Folder, fact: FileFact, look: Callable[[_Digesting], None] | None = None
) -> list[str]:
    """What is wrong with a file; `look` is given it on the way, and need not read it to its end."""
    try:
        with folder.open(fact["name"]) as opened:
            file = _Digesting(opened, max(fact["bytes"], _CHUNK))
            if look is not None:
                look(file)
            file.rest()
    except FileNotFoundError:
        return [f"{folder.url}/{fact['name']} is missing"]
    except (GristmillError, OSError) as error:
        return [f"{folder.url}/{fact['name']} cannot be read: {error}"]
    if file.size != fact["bytes"] or file.digest.hexdigest() != fact["sha256"]:
        return [f"{folder.url}/{fact['name']} has another digest than the manifest says"]
    return []


class _Shard:
    """One shard: each sample must have what readers rely on, and the bytes that were stored."""

    def __init__(self, folder: Folder, name: str, media: str, problems: list[str]) -> None:
        self.folder, self.name, self.media, self.problems = folder, name, media, problems
        split, _, base = name.rpartition("/")
        self.facts = folder.read_table(f"{split}/metadata/{base.rpartition('.')[0]}.parquet")
        self.stored = self._digests()
        self.formats = self._formats()
        self._check_tokens()

    def tar_keys(self, file: _Digesting) -> list[str]:
        """Keys of a tar; each sample must have its pictures (if the set has them), a .json and a
        .txt, side by side."""
        keys: list[str] = []
        members: dict[str, bytes] = {}
        for name, data in read_members(file):
            key, _, extension = name.partition(".")
            if not keys or key != keys[-1]:
                if keys:
                    self._check_members(keys[-1], members)
                keys.append(key)
                members = {}
            members[extension] = data
        if keys:
            self._check_members(keys[-1], members)
        return keys

    def parquet_keys(self) -> list[str]:
        """Keys of a Parquet shard; each sample must have its pictures, if the set has them."""
        column = "images" if self.media in MULTI_IMAGE else self.media
        keys: list[str] = []
        with self.folder.open(self.name) as file:
            names = ["uid", *([column] if self.media else [])]
            for batch in pq.ParquetFile(file).iter_batches(64, columns=names):
                uids = batch["uid"].to_pylist()
                keys += uids
                cells = batch[column].to_pylist() if self.media else []
                for uid, cell in zip(uids, cells, strict=False):
                    found = cell if isinstance(cell, list) else [cell]
                    if not found:
                        self._wrong(f"{uid} has no picture")
                    self._check_pictures(uid, [(one or {}).get("bytes") or b"" for one in found])
        return keys

    def _wrong(self, text: str) -> None:
        self.problems.append(f"{self.folder.url}/{self.name}: {text}")

    def _digests(self) -> dict[str, list[str | None]]:
        """uid -> digests of its stored bytes; none of frames, which are made of them, and in sets
        of a time before they were kept."""
        several = self.media in STORED_MULTI_IMAGE
        column = PIECE_DIGESTS if several else "stored_sha256"
        if self.media in ("", "frames") or column not in self.facts.column_names:
            return {}
        values = self.facts[column].to_pylist()
        lists = [value or [] if several else [value] for value in values]
        return dict(zip(self.facts["uid"].to_pylist(), lists, strict=True))

    def _formats(self) -> dict[str, str | None]:
        """uid -> what its picture is said to be; readers take the ending of its member from it."""
        if self.media != "image" or "format" not in self.facts.column_names:
            return {}
        columns = (self.facts[name].to_pylist() for name in ("uid", "format"))
        return dict(zip(*columns, strict=True))

    def _check_members(self, key: str, members: Mapping[str, bytes]) -> None:
        pictures = [data for name, data in members.items() if name not in _TEXTS]
        several = self.media in MULTI_IMAGE
        right = bool(pictures) if several else len(pictures) == bool(self.media)
        if not right or not set(_TEXTS) <= set(members):
            self._wrong(f"{key} has the members {list(members)}")
        elif not members["json"]:
            self._wrong(f"{key} has an empty .json")
        self._check_pictures(key, pictures)

    def _check_pictures(self, key: str, pictures: Sequence[bytes]) -> None:
        """Pictures, or the clip, of a sample: there, and as they were stored."""
        if not all(pictures):
            self._wrong(f"{key} has an empty picture or clip")
            return
        # A tar sorts its members by name, not by number.
        wanted = sorted(digest for digest in self.stored.get(key, ()) if digest)
        if wanted and wanted != sorted(hashlib.sha256(data).hexdigest() for data in pictures):
            self._wrong(f"{key} has other bytes than were stored")
        kind, said = format_of(pictures[0]) if pictures else None, self.formats.get(key)
        if kind is not None and said is not None and kind != said:
            self._wrong(f"{key} is a {kind} and is said to be a {said}")

    def _check_tokens(self) -> None:
        """Tokens are never empty, and stand in the stead of pictures where there are none."""
        columns = [name for name in TOKEN_COLUMNS if name in self.facts.column_names]
        for row in self.facts.select(["uid", *columns]).to_pylist():
            values = [row[name] for name in columns]
            if any(value is not None and not len(value) for value in values):
                self._wrong(f"{row['uid']} has empty tokens")
            elif not self.media and not any(values):
                self._wrong(f"{row['uid']} has neither pictures nor tokens")
