"""Readers of picture files: a folder with sidecars, and files that a table names."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.columns import ColumnMap
from gristmill.pipelines.sources.pointer import file_pointer
from gristmill.pipelines.sources.reasons import BROKEN_SIDECAR, NOT_UTF8, OUTSIDE, SHARED_SIDECAR
from gristmill.pipelines.sources.row_builder import ENDINGS, RowBuilder, SourceRow
from gristmill.pipelines.sources.values import BrokenJson, ending_of, load_sidecar
from gristmill.pipelines.storage import Folder


def is_taken(name: str, extensions: tuple[str, ...], kind: str) -> bool:
    """Whether a file counts as a picture, or a video; `extensions` ("*" for all) replaces the usual
    ones."""
    if extensions:
        wanted = {extension.lower().lstrip(".") for extension in extensions}
        return "*" in extensions or ending_of(name) in wanted
    return ending_of(name) in ENDINGS[kind]


def resolve_inside(folder: Folder, name: str) -> str | None:
    """URL of `name`, as a table gives it, below `folder`, or None if it leads out of it, by `..`,
    by a link, as a URL or as another machine's path."""
    if "://" in name or "\0" in name or re.match(r"[A-Za-z]:[\\/]", name):
        return None
    if folder.is_local and os.path.isabs(name):
        # It may be below the folder all the same.
        name = os.path.relpath(name, os.path.abspath(folder.path))
    if "\\" in name and not folder.exists(posixpath.normpath(name)):
        name = name.replace("\\", "/")
    normal = posixpath.normpath(name)
    if normal.startswith(("/", "../")) or normal in ("..", "."):
        return None
    return _unless_linked_outside(folder, normal)


def _unless_linked_outside(folder: Folder, name: str) -> str | None:
    path = folder.local_path(name)
    if path is not None:
        root = os.path.realpath(folder.path)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            return None
    return folder.join_url(name)


def place_of(kind: str, url: str) -> str:
    """The folder that the names of files start from: a folder itself, or that of a table."""
    return url.rstrip("/") if kind == "folder" else url.rpartition("/")[0]


def told_apart(places: Iterable[str]) -> dict[str, str]:
    """What tells each place from the others: the way to it from the folder that holds them all;
    empty if it is the only one."""
    found = set(places)
    if len(found) < 2:
        return dict.fromkeys(found, "")
    first, last = min(found).split("/"), max(found).split("/")
    shared = 0
    # What the first and the last in order share, all share.
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return {place: "/".join(place.split("/")[shared:]) for place in found}


def sidecars_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the files beside a picture may be called that hold its caption, and those with facts,
    the likeliest first: x.txt or x.jpg.txt of x.jpg, and as Google's Takeout writes them."""
    stem = name.rpartition(".")[0] or name
    texts = (f"{stem}.txt", f"{stem}.caption", f"{name}.txt")
    facts = (f"{stem}.json", f"{name}.json", f"{name}.supplemental-metadata.json")
    return texts, facts


def read_folder(
    folder: Folder,
    names: list[str],
    sidecars: Mapping[str, int],
    columns: ColumnMap,
    rows: RowBuilder,
) -> Iterator[pa.Table]:
    """Rows of picture files; `x.txt` is the caption of `x.jpg`, `x.json` its caption and facts.

    `sidecars`: name -> of how many pictures it may be.
    """
    for name in names:
        texts, facts_files = sidecars_of(name)
        text = next((one for one in texts if one in sidecars), "")
        beside = next((one for one in facts_files if one in sidecars), "")
        values: dict[str, object] = {}
        of = max(sidecars.get(one, 1) for one in (text, beside))
        reason = SHARED_SIDECAR if of > 1 else None
        if beside:
            try:
                values = load_sidecar(folder.read_bytes(beside))
            except BrokenJson:
                values = {"sidecar_error": "broken json"}
                if not text:
                    # What it says of the picture is lost with it.
                    reason = reason or BROKEN_SIDECAR
        # A title that is but the file's name describes nothing.
        bare = {"title"} if values.get("title") == name.rpartition("/")[2] else set()
        mapping = columns.of(key for key in values if key != "url" and key not in bare)
        facts = {ours: values.get(theirs) for ours, theirs in mapping.items() if ours != "path"}
        used = {theirs for ours, theirs in mapping.items() if ours != "path"}
        meta = {key: value for key, value in values.items() if key not in used}
        if text:
            try:
                facts["caption"] = folder.read_bytes(text).decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                reason = reason or NOT_UTF8
        row = file_row(folder, name)
        if reason and row.error is None:
            row = _failed(row.locator, FAILED_TO_DECODE, reason)
        rows.add(row.saying(facts, meta))
        yield from rows.take()
    yield from rows.take(all_rows=True)


def sidecar_names(folder: Folder, sidecars: Iterable[str]) -> set[str]:
    """Names in the JSON files beside pictures."""
    names: set[str] = set()
    for sidecar in sidecars:
        if sidecar.endswith(".json"):
            with contextlib.suppress(BrokenJson):
                names |= load_sidecar(folder.read_bytes(sidecar)).keys()
    return names


def file_row(folder: Folder, name: str) -> SourceRow:
    """The row of a file that was found below `folder`; one whose link leads out of it comes in
    failed."""
    url = _unless_linked_outside(folder, name)
    if url is None:
        return _failed(name, FAILED_TO_DOWNLOAD, OUTSIDE)
    return SourceRow(kind="path", locator=name, pointer=file_pointer(url))


def named_file_row(folder: Folder, name: str) -> SourceRow:
    """The row of a file that a table names; one that leads out of `folder` comes in failed."""
    url = resolve_inside(folder, name)
    if url is None:
        return _failed(name, FAILED_TO_DOWNLOAD, OUTSIDE)
    # However it is spelt, one file has one name: `1.jpg`, `./1.jpg`, `/data/set/1.jpg`.
    place = url.removeprefix(f"{folder.url}/")
    return SourceRow(kind="path", locator=place, pointer=file_pointer(url))


def _failed(name: str, status: str, reason: str) -> SourceRow:
    return SourceRow(kind="path", locator=name, status=status, error=reason)
