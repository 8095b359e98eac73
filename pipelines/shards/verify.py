"""Checks a shard set against its manifest and against what readers rely on."""

from __future__ import annotations

import hashlib
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.errors import ShardError
from gristmill.pipelines.media import MULTI_IMAGE
from gristmill.pipelines.shards.manifest import FileFact
from gristmill.pipelines.shards.reader import FORGOTTEN, read_manifest
from gristmill.pipelines.storage import Folder

_CHUNK = 4 * 2**20


def verify_shards(url: str) -> list[str]:
    """Everything wrong with a set, in words; empty if all is well. Streams; needs little memory."""
    folder = Folder(url)
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        return [str(error)]
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    problems: list[str] = []
    for fact in [*shards, *manifest["files"]]:
        problems += _check_file(folder, fact)
    named = {fact["name"] for fact in [*shards, *manifest["files"]]} | {"manifest.json", FORGOTTEN}
    problems += [
        f"{url}/{name} is not in the manifest" for name in folder.walk() if name not in named
    ]
    if problems:
        return problems
    media = manifest.get("media", "image") if manifest.get("pictures", True) else ""
    seen: set[str] = set()
    for shard in shards:
        reader = _tar_keys if manifest["format"] == "webdataset" else _parquet_keys
        try:
            keys = reader(folder, shard["name"], media, problems)
        except (tarfile.TarError, pa.ArrowInvalid, OSError) as error:
            problems.append(f"{url}/{shard['name']} cannot be read: {error}")
            continue
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


def _check_file(folder: Folder, fact: FileFact) -> list[str]:
    digest, size = hashlib.sha256(), 0
    try:
        with folder.open(fact["name"]) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return [f"{folder.url}/{fact['name']} is missing"]
    if size != fact["bytes"] or digest.hexdigest() != fact["sha256"]:
        return [f"{folder.url}/{fact['name']} has another digest than the manifest says"]
    return []


def _tar_keys(folder: Folder, name: str, media: str, problems: list[str]) -> list[str]:
    """Keys of a tar; each sample must have its pictures (if the set has them), a .json and a .txt,
    side by side."""
    keys: list[str] = []
    members: list[str] = []

    def close() -> None:
        files = len(members) - 2
        right = files > 0 if media in MULTI_IMAGE else files == bool(media)
        if not right or not {"json", "txt"} <= set(members):
            problems.append(f"{folder.url}/{name}: {keys[-1]} has the members {members}")

    with folder.open(name) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if not keys or key != keys[-1]:
                if keys:
                    close()
                keys.append(key)
                members.clear()
            members.append(extension)
    if keys:
        close()
    return keys


def _parquet_keys(folder: Folder, name: str, media: str, problems: list[str]) -> list[str]:
    column = "images" if media in MULTI_IMAGE else media
    with folder.open(name) as file:
        table = pq.ParquetFile(file).read(columns=["uid", *([column] if media else [])])
    keys: list[str] = table["uid"].to_pylist()
    for uid, cell in zip(keys, table[column].to_pylist() if media else (), strict=False):
        cells = cell if isinstance(cell, list) else [cell]
        if not cells or not all(one["bytes"] for one in cells):
            problems.append(f"{folder.url}/{name}: {uid} has no picture")
    return keys
