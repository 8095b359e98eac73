"""Readers of tar shards: WebDataset as others write it, and img2dataset's output folders."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import fsspec
import pyarrow as pa

from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, SUCCESS, normalise_url
from gristmill.pipelines.sources.pointer import compressed_tar_pointer, tar_pointer
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow
from gristmill.pipelines.sources.tables import add_bytes, open_parquet

TRUNCATED = "truncated tar"
_CAPTIONS = ("txt", "caption", "text", "cap")
# Facts of somebody else's pipeline that would be taken for ours.
# Bytes and pointer of a member.
Member = tuple[bytes, str]
_NOT_OURS = ("key", "status", "error_message", "sha256", "exif")


def read_tar(url: str, rows: RowBuilder) -> Iterator[pa.Table]:
    """One row for each sample: members that share a name up to the first dot of its last part."""
    sample: dict[str, Member] = {}
    key = ""
    try:
        for found, extension, data, pointer in _members(url):
            if found != key:
                _add_sample(rows, key, sample)
                yield from rows.take()
                key, sample = found, {}
            sample[extension] = (data, pointer)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        _add_sample(rows, key, sample)
        rows.add(
            SourceRow(
                kind="bytes",
                locator=f"{TRUNCATED}:{url.rpartition('/')[2]}",
                status=FAILED_TO_DOWNLOAD,
                error=TRUNCATED,
            )
        )
        sample = {}
    _add_sample(rows, key, sample)
    yield from rows.take(all_rows=True)


def _members(url: str) -> Iterator[tuple[str, str, bytes, str]]:
    """(sample, extension, bytes, pointer) of each regular file."""
    with fsspec.open(url, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b" or url.endswith((".tgz", ".gz", ".bz2", ".xz"))
    with (
        fsspec.open(url, "rb") as file,
        tarfile.open(fileobj=file, mode="r|*" if compressed else "r|") as tar,
    ):
        number = 0
        for member in tar:
            if not member.isfile():
                continue
            folder, slash, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            opened = tar.extractfile(member)
            data = opened.read() if opened else b""
            if len(data) != member.size:
                raise EOFError(member.name)
            pointer = (
                compressed_tar_pointer(url, number)
                if compressed
                else tar_pointer(url, member.offset_data, member.size)
            )
            number += 1
            yield folder + slash + stem, extension.lower(), data, pointer
    if not compressed:
        _check_end(url)


def _check_end(url: str) -> None:
    """A plain tar that was cut between members reads like a short one; its end mark is missing."""
    fs, path = fsspec.core.url_to_fs(url)
    size = int(fs.size(path))
    if size < 1024 or fs.cat_file(path, start=size - 1024).strip(b"\0"):
        raise EOFError("no end mark")


def _add_sample(rows: RowBuilder, key: str, sample: Mapping[str, Member]) -> None:
    if not sample:
        return
    texts = {name: _text(name, data) for name, (data, _) in sample.items()}
    values: dict[str, object] = {"sample_key": key}
    for name, text in texts.items():
        if name.split(".")[0] == "json" and text is not None:
            try:
                document = json.loads(text)
            except ValueError:
                document = {"sidecar_error": "broken json"}
            values |= document if isinstance(document, dict) else {"sidecar": document}
    mapping = rows.map_columns({}, [name for name in values if name != "sample_key"], key)
    mapping.pop("path", None)
    for name, text in texts.items():
        if name.split(".")[0] in _CAPTIONS and text is not None:
            mapping["caption"] = "sample_caption"
            values["sample_caption"] = text.strip()
    picture = next((n for n in sample if rows.is_wanted(f"x.{n}")), None)
    if picture is None:
        digest = hashlib.sha256(b"".join(data for data, _ in sample.values())).hexdigest()
        rows.add(
            SourceRow(
                kind="bytes",
                locator=digest,
                caption=values.get(mapping.get("caption", "")),
                status=FAILED_TO_DECODE,
                error=f"no {rows.kind} member",
                meta={**values, "members": sorted(sample)},
            )
        )
        return
    data, pointer = sample[picture]
    for name in _NOT_OURS:
        values.pop(name, None)
    add_bytes(rows, mapping, values, data, pointer)


def _text(name: str, data: bytes) -> str | None:
    """A text member, also one that was gzipped by itself."""
    first, _, rest = name.partition(".")
    if first not in (*_CAPTIONS, "json"):
        return None
    if rest == "gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return None
    return data.decode("utf-8", "replace")


def read_img2dataset(tar: str, parquet: str, rows: RowBuilder) -> Iterator[pa.Table]:
    """Rows of one img2dataset shard: facts from the Parquet, bytes from the tar, failures
    included."""
    pointers: dict[str, tuple[str, str]] = {}
    truncated = False
    try:
        for key, extension, data, pointer in _members(tar):
            if rows.is_wanted(f"x.{extension}"):
                pointers[key] = (pointer, hashlib.sha256(data).hexdigest())
    except (tarfile.TarError, EOFError):
        truncated = True
    with fsspec.open(parquet, "rb") as opened:
        file = open_parquet(parquet, opened)
        mapping = rows.map_columns({}, [n for n in file.schema_arrow.names if n != "path"], parquet)
        for batch in file.iter_batches(5_000):
            for values in batch.to_pylist():
                _add_img2dataset(rows, mapping, values, pointers, truncated)
            yield from rows.take()
    yield from rows.take(all_rows=True)


def _add_img2dataset(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    pointers: Mapping[str, tuple[str, str]],
    truncated: bool,
) -> None:
    facts = {ours: values.get(theirs) for ours, theirs in mapping.items()}
    url = str(facts.get("url") or "")
    used = (*mapping.values(), "status", "error_message")
    meta = {name: value for name, value in values.items() if name not in used}
    status = str(values.get("status") or SUCCESS)
    key = str(values.get("key") or "")
    row = SourceRow(kind="url", locator=normalise_url(url or key), url=url or None)
    if status != SUCCESS:
        row = replace(row, status=status, error=str(values.get("error_message") or status))
    elif key in pointers:
        row = replace(row, pointer=pointers[key][0], sha256=pointers[key][1])
    else:
        error = TRUNCATED if truncated else f"no {rows.kind} member"
        row = replace(row, status=FAILED_TO_DOWNLOAD, error=error)
    rows.add(row.saying(facts, meta))
