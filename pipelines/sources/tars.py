"""Readers of tar shards: WebDataset as others write it, and img2dataset's output folders."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from gristmill.pipelines.locate import is_folder, open_url
from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, SUCCESS
from gristmill.pipelines.sources.add_rows import add_broken, add_digest, broken_row, split_values
from gristmill.pipelines.sources.cells import cell_of
from gristmill.pipelines.sources.columns import ColumnMap
from gristmill.pipelines.sources.parquet import open_parquet, rows_of_group
from gristmill.pipelines.sources.pointer import (
    PointerError,
    compressed_tar_pointer,
    file_pointer,
    read_pointers,
    tar_pointer,
)
from gristmill.pipelines.sources.reasons import (
    BROKEN_ROW_GROUP,
    BROKEN_SIDECAR,
    NOT_IN_PARQUET,
    NOT_UTF8,
    no_member,
)
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow, url_row
from gristmill.pipelines.sources.values import BrokenJson, load_sidecar, text_of
from gristmill.pipelines.storage import Folder
from gristmill.pipelines.tar_samples import (
    DEAD_LINK,
    FACT_ENDING,
    REPEATED_MEMBER,
    TarMembers,
    TarSample,
    kind_of_text,
    samples_of,
    split_name,
)

# Facts of somebody else's pipeline that would be taken for ours.
_NOT_OURS = ("key", "status", "error_message", "sha256", "exif")
# Bytes of a text member that is read again because a link leads to it.
_LONGEST_TEXT = 64 * 2**20


@dataclass(frozen=True)
class _Member:
    """What is kept of a member until its sample is known: where it lies, and its digest or its
    text."""

    key: str
    extension: str
    pointer: str | None
    digest: str = ""
    text: bytes = b""


class _Tar:
    """Members of a tar, hashed as they pass."""

    def __init__(self, url: str, rows: RowBuilder) -> None:
        self.url, self._rows = url, rows
        self.problem: str | None = None

    def is_wanted(self, extension: str) -> bool:
        """Whether a member is a picture (or clip)."""
        return self._rows.is_wanted(f"x.{extension}")

    def _is_read(self, extension: str) -> bool:
        return self.is_wanted(extension) or kind_of_text(extension) is not None

    def __iter__(self) -> Iterator[_Member]:
        known: dict[int, _Member] = {}
        with open_url(self.url) as file:
            tar = TarMembers(file)
            for member, data in tar.read(self._is_read):
                pointer = (
                    compressed_tar_pointer(self.url, member.number)
                    if tar.compressed
                    else tar_pointer(self.url, member.offset, member.size)
                )
                found = _Member(member.key, member.extension, pointer)
                if member.number < 0:
                    found = replace(found, pointer=None)
                elif data is not None and self.is_wanted(member.extension):
                    found = replace(found, digest=hashlib.sha256(data).hexdigest())
                elif data is not None:
                    found = replace(found, text=data)
                elif member.target:
                    found = self._linked(known.get(member.number), found)
                known[member.number] = replace(found, text=b"")
                yield found
        self.problem = tar.problem

    def _linked(self, target: _Member | None, link: _Member) -> _Member:
        """A link in a compressed tar, which cannot be read backwards."""
        if self.is_wanted(link.extension) and target is not None and target.digest:
            return replace(link, digest=target.digest)
        if not self._is_read(link.extension):
            return link
        _, data = next(read_pointers([str(link.pointer)], _LONGEST_TEXT))
        if isinstance(data, PointerError):
            return replace(link, pointer=None)
        if self.is_wanted(link.extension):
            return replace(link, digest=hashlib.sha256(data).hexdigest())
        return replace(link, text=data)


class _Files:
    """Files of a shard that img2dataset wrote as files; what is in them is not looked at here."""

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        self.problem: str | None = None

    def __iter__(self) -> Iterator[_Member]:
        for name in self._folder.names():
            if found := split_name(name):
                yield _Member(*found, file_pointer(self._folder.join_url(name)))


def skipped_members(url: str) -> int:
    """Files of a plain tar on a local disk that belong to no sample; 0 where that is not soon
    known."""
    folder, _, name = url.rpartition("/")
    if not Folder(folder or ".").is_local or not name.endswith(".tar"):
        return 0
    with open_url(url) as file:
        tar = TarMembers(file)
        for _ in tar.read(lambda ending: False):
            pass
    return tar.skipped


def fact_names(url: str, samples: int) -> set[str]:
    """Names in the JSON members of the first samples of a tar."""
    names: set[str] = set()
    with open_url(url) as file:
        for _, data in TarMembers(file).read(lambda ending: kind_of_text(ending) == FACT_ENDING):
            if data is not None:
                with contextlib.suppress(BrokenJson):
                    names |= load_sidecar(data).keys()
                samples -= 1
            if not samples:
                break
    return names


def read_tar(url: str, columns: ColumnMap, rows: RowBuilder) -> Iterator[pa.Table]:
    """One row for each sample (see `samples_of`). Where a tar is damaged, its last row says so."""
    tar = _Tar(url, rows)
    for sample in samples_of(tar, tar.is_wanted):
        _add_sample(rows, columns, sample, url)
        yield from rows.take()
    name = url.rpartition("/")[2]
    if tar.problem:
        add_broken(rows, f"{tar.problem}:{name}", FAILED_TO_DOWNLOAD, tar.problem)
    yield from rows.take(all_rows=True)


def _add_sample(rows: RowBuilder, columns: ColumnMap, sample: TarSample[_Member], url: str) -> None:
    values: dict[str, object] = {}
    reason = sample.reason
    facts = sample.members.get(FACT_ENDING) or sample.members.get(f"{FACT_ENDING}.gz")
    if facts is not None:
        try:
            values = load_sidecar(_unpacked(facts))
        except BrokenJson:
            values = {"sidecar_error": "broken json"}
            if not sample.captions():
                # What it says of the picture is lost with it.
                reason = reason or BROKEN_SIDECAR
    mapping = {k: v for k, v in columns.of(values).items() if k != "path"}
    values["sample_key"] = sample.key
    try:
        _add_captions(sample, mapping, values)
    except UnicodeDecodeError:
        reason = reason or NOT_UTF8
    picture = sample.members[sample.picture] if sample.picture is not None else None
    if picture is None:
        reason = reason or no_member(rows.kind)
    elif picture.pointer is None:
        reason = reason or DEAD_LINK
    if picture is None or reason:
        # Known by its place: what it holds may be nothing.
        place = [url.rpartition("/")[2], sample.key, sample.picture, picture and picture.pointer]
        said, meta = split_values(mapping, values)
        row = broken_row(place, FAILED_TO_DECODE, str(reason))
        rows.add(row.saying(said, {**meta, "members": sorted(sample.members)}))
        return
    for name in _NOT_OURS:
        values.pop(name, None)
    add_digest(rows, mapping, values, picture.digest, picture.pointer)


def _add_captions(
    sample: TarSample[_Member], mapping: dict[str, str], values: dict[str, object]
) -> None:
    """The text members that count as captions; others go with what else is said."""
    chosen = sample.captions()
    texts: list[str] = []
    for ending, member in sample.members.items():
        if kind_of_text(ending) in (None, FACT_ENDING):
            continue
        text = (text_of(_unpacked(member)) or "").removeprefix("\ufeff").strip()
        if ending in chosen:
            texts.append(text)
        else:
            values.setdefault(ending, text)
    if chosen:
        mapping["caption"] = "sample_caption"
        values["sample_caption"] = texts


def _unpacked(member: _Member) -> bytes:
    """Bytes of a text member, also one that was gzipped by itself."""
    if not member.extension.endswith(".gz"):
        return member.text
    try:
        return gzip.decompress(member.text)
    except (OSError, EOFError, zlib.error):
        # As good as any bytes that are no text.
        return b"\xff"


def read_img2dataset(
    tar: str, parquet: str, columns: ColumnMap, rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of one img2dataset shard: facts from the Parquet, bytes from the tar, or the folder of
    files, failures included."""
    members = _Files(tar) if is_folder(tar) else _Tar(tar, rows)
    pictures: dict[str, list[_Member]] = {}
    for member in members:
        if rows.is_wanted(f"x.{member.extension}"):
            pictures.setdefault(member.key, []).append(member)
    with open_url(parquet) as opened:
        file = open_parquet(parquet, opened)
        mapping = columns.of_table([n for n in file.schema_arrow.names if n != "path"], parquet)
        for group in range(file.num_row_groups):
            for number, values in enumerate(rows_of_group(file, group, 5_000)):
                if values is None:
                    place = (parquet, group, number)
                    add_broken(rows, place, FAILED_TO_DOWNLOAD, BROKEN_ROW_GROUP)
                else:
                    found = pictures.pop(_said(values, "key"), [])
                    _add_img2dataset(rows, mapping, values, found, members.problem)
                yield from rows.take()
    for key, found in pictures.items():
        for member in found:
            content = [tar.rpartition("/")[2], key, member.digest]
            add_broken(rows, content, FAILED_TO_DECODE, NOT_IN_PARQUET, {"sample_key": key})
    yield from rows.take(all_rows=True)


def _add_img2dataset(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    pictures: list[_Member],
    problem: str | None,
) -> None:
    facts = {ours: cell_of(values, theirs) for ours, theirs in mapping.items()}
    used = (*mapping.values(), "status", "error_message")
    meta = {name: value for name, value in values.items() if name not in used}
    status = _said(values, "status") or SUCCESS
    key = _said(values, "key")
    url = url_row(facts.get("url"))
    row = SourceRow(kind="url", locator=url.locator or key, url=url.url or None)
    if status != SUCCESS:
        row = replace(row, status=status, error=_said(values, "error_message") or status)
    elif len(pictures) == 1 and pictures[0].pointer:
        row = replace(row, pointer=pictures[0].pointer, sha256=pictures[0].digest or None)
    else:
        error = REPEATED_MEMBER if pictures else problem or no_member(rows.kind)
        row = replace(row, status=FAILED_TO_DOWNLOAD, error=error)
    rows.add(row.saying(facts, meta))


def _said(values: Mapping[str, object], name: str) -> str:
    """A text that img2dataset wrote; bytes that are none are as good as nothing."""
    try:
        return text_of(values.get(name)) or ""
    except UnicodeDecodeError:
        return ""
