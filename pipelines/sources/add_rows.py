"""Rows of tables from the values of a line: with an address, with bytes, or broken."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE
from gristmill.pipelines.sources.cells import cell_of
from gristmill.pipelines.sources.files import named_file_row
from gristmill.pipelines.sources.listed_videos import is_page, listed_videos
from gristmill.pipelines.sources.reasons import (
    LOCAL_PATH,
    NO_TEXT,
    NO_URL,
    SEVERAL_IN_ROW,
    no_picture,
)
from gristmill.pipelines.sources.row_builder import ENDINGS, RowBuilder, SourceRow, url_row
from gristmill.pipelines.sources.values import digest_of, ending_of, is_address, texts_of

# As img2dataset calls them.
_FAILED = (FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE)


def add_mapped(rows: RowBuilder, mapping: Mapping[str, str], values: Mapping[str, object]) -> None:
    """Add a row that names a URL, a file below the folder of `rows`, or a video by its id; several
    if it is about several stretches."""
    facts, meta = split_values(mapping, values)
    if rows.kind == "text":
        rows.add(text_row(facts.get("caption")).saying(facts, meta))
        return
    path, url = _only(facts.get("path")), _only(facts.get("url"))
    if isinstance(url, list) or (isinstance(path, list) and url is None):
        content = sorted(values.items(), key=str)
        add_broken(rows, content, FAILED_TO_DOWNLOAD, SEVERAL_IN_ROW, values)
        return
    row = address_row(rows, url)
    if path is not None and row.error == NO_URL:
        if mapping["path"] in values:
            meta[mapping["path"]] = path
        if is_address(path):
            # A column that is usually of files may be of addresses.
            row = url_row(path)
        elif rows.files is not None and isinstance(path, str):
            row = named_file_row(rows.files, path.strip())
        else:
            row = replace(row, kind="path", locator=digest_of(path), error=LOCAL_PATH)
    add_addressed(rows, row, facts, meta)


def _only(cell: object) -> object:
    """What a list of one holds; a list of several stays one."""
    if isinstance(cell, list) and len(cell) < 2:
        return cell[0] if cell else None
    return cell


def add_addressed(
    rows: RowBuilder,
    row: SourceRow,
    facts: Mapping[str, object],
    meta: Mapping[str, object],
) -> None:
    """Add what a source says of an address; of a video, a row for each of its stretches."""
    if rows.kind != "video":
        rows.add(row.saying(facts, meta))
        return
    for video in listed_videos(rows, row, facts, meta):
        rows.add(video)


def text_row(text: object) -> SourceRow:
    """The row of a text alone, known by it."""
    row = SourceRow(kind="text", locator=digest_of(text))
    try:
        said = any(one.strip() for one in texts_of(text)[0])
    except UnicodeDecodeError:
        # Which it is told of when it is added.
        said = True
    return row if said else replace(row, status=FAILED_TO_DECODE, error=NO_TEXT)


def address_row(rows: RowBuilder, address: object) -> SourceRow:
    """The row of a URL, or of a file that is named in the stead of one."""
    row = url_row(address)
    if row.error == LOCAL_PATH and rows.files is not None:
        return named_file_row(rows.files, (row.url or "").strip())
    return row


def names_file(mapping: Mapping[str, str], values: Mapping[str, object], kind: str) -> bool:
    """Whether a line names a picture (or video) in its column of files: by an ending, or by an
    address after all."""
    path = cell_of(values, mapping["path"]) if "path" in mapping else None
    named = isinstance(path, str) and ending_of(path.strip()) in ENDINGS[kind]
    return named or is_address(path)


def add_bytes(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    data: bytes | None,
    pointer: str | None,
) -> None:
    """Add a row whose picture lies in the source."""
    digest = None if data is None else hashlib.sha256(data).hexdigest()
    add_digest(rows, mapping, values, digest, pointer)


def add_digest(
    rows: RowBuilder,
    mapping: Mapping[str, str],
    values: Mapping[str, object],
    digest: str | None,
    pointer: str | None,
) -> None:
    """Add a row whose picture lies in the source: known by its URL if it has one (and not only the
    page on which it is watched), else by the digest of its bytes; None if there are none."""
    facts, meta = split_values(mapping, values)
    if digest is None:
        row = SourceRow(
            kind="bytes",
            locator=digest_of(sorted(values.items(), key=str)),
            status=FAILED_TO_DECODE,
            error=no_picture(rows.kind),
        )
        status, reason = values.get("status"), values.get("error_message")
        if status in _FAILED and isinstance(reason, str):
            # What img2dataset says of a row that it could not have.
            row = replace(row, status=str(status), error=reason)
    else:
        row = SourceRow(kind="bytes", locator=digest, sha256=digest, pointer=pointer)
    url = url_row(facts.get("url"))
    if url.url and not (rows.kind == "video" and is_page(url.url)):
        row = replace(row, kind="url", locator=url.locator, url=url.url)
    elif url.url:
        # Of one page there may be many clips.
        row = replace(row, url=url.url)
    rows.add(row.saying(facts, meta))


def add_broken(
    rows: RowBuilder,
    content: object,
    status: str,
    reason: str,
    meta: Mapping[str, object] | None = None,
) -> None:
    """Add a row that cannot be read, with its reason; it is known by all that it holds."""
    rows.add(replace(broken_row(content, status, reason), meta=meta or {}))


def broken_row(content: object, status: str, reason: str) -> SourceRow:
    """A row that comes in failed."""
    return SourceRow(kind="bytes", locator=digest_of(content), status=status, error=reason)


def split_values(
    mapping: Mapping[str, str], values: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """What is said under our names, and what else is said."""
    facts = {ours: cell_of(values, theirs) for ours, theirs in mapping.items()}
    # A column of names of files says something besides where the picture has an address, or lies
    # in the source.
    used = {theirs for ours, theirs in mapping.items() if ours != "path"}
    return facts, {name: value for name, value in values.items() if name not in used}
