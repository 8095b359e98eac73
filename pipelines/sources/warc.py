"""Reader of crawl archives (WARC): pairs of picture and alternative text, or pages as documents;
pictures that lie in the archive are taken from it.

A file is read twice: once for where its pictures lie (no payload is kept), once for its pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD, normalise_url
from gristmill.pipelines.sources.page_rows import Stored, add_pictures, add_refused, opt_out_of
from gristmill.pipelines.sources.pointer import packed_warc_pointer, warc_pointer
from gristmill.pipelines.sources.reasons import (
    LARGE_PAGE,
    NOT_A_PAGE,
    OF_NO_PAGE,
    REVISIT,
    TRUNCATED_RECORD,
)
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow
from gristmill.pipelines.sources.warc_records import WarcRecord, first_records, read_records
from gristmill.pipelines.sources.web_page import PageImage, WebPage, decode_page, read_page
from gristmill.pipelines.sources.web_payload import PayloadError, payload_of

# Of a page, as sent and unpacked.
LARGEST_PAGE = 20_000_000
# They say something of other records and hold no content of their own.
_ABOUT_OTHERS = frozenset(("warcinfo", "request", "metadata"))
_HTML = frozenset(("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"))
# What servers say of what they do not know.
_VAGUE = frozenset(("", "text/plain", "application/octet-stream", "unk", "application/unknown"))
_GOOD = (None, 200, 203)
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_LOOKED_AT = 8


@dataclass
class _Pictures:
    """Pictures of an archive by address, and which of its records were taken for one."""

    # Address -> where it lies, and the number of its record.
    stored: dict[str, tuple[Stored, int]] = field(default_factory=dict)
    # Address -> another one with the content, and the number of the record that says so.
    elsewhere: dict[str, tuple[str, int]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def find(self, urls: Sequence[str]) -> tuple[str, Stored] | None:
        """The first of these addresses whose picture lies in the archive."""
        if not self.stored:
            return None
        for url in urls:
            passed: list[int] = []
            key = normalise_url(url)
            while key not in self.stored and key in self.elsewhere:
                key, number = self.elsewhere[key]
                passed.append(number)
                if len(passed) > _MOST_REDIRECTS:
                    break
            if key in self.stored:
                stored, number = self.stored[key]
                self.used |= {*passed, number}
                return url, stored
        return None


def read_warc(
    url: str, rows: RowBuilder, *, documents: bool = False, opt_out: bool = True
) -> Iterator[pa.Table]:
    """Rows of an archive: one for each `<img>` of its pages, or, for `documents`, one a page; and
    one for each other record that holds content, with the reason why it is neither."""
    pictures = _find_pictures(url, opt_out)
    left: list[WarcRecord] = []
    pages = _Pages(url, rows, pictures, documents, opt_out)
    for record in read_records(url, lambda r: LARGEST_PAGE + 1 if _is_page(r) else 0):
        if record.kind in _ABOUT_OTHERS and not record.problem:
            continue
        if not record.problem and _may_serve(record):
            left.append(record)
        else:
            pages.add(record)
        yield from rows.take()
    for record in left:
        # What no page showed.
        if record.number not in pictures.used:
            pages.refuse(record, _reason_of(record))
        yield from rows.take()
    yield from rows.take(all_rows=True)


def check_archive(url: str, kind: str, of: str) -> None:
    """Raise `SourceError` for what is no such archive, by its first records."""
    if of not in ("image", "document") or (of == "document" and kind == "wat"):
        raise SourceError(
            f"{url}: {of}s do not come as {kind}; a WARC has pairs of picture and text, and pages "
            "as documents, a WAT has pairs alone"
        )
    kinds = {record.kind for record in first_records(url, _LOOKED_AT)}
    if kind == "warc" and "metadata" in kinds and kinds <= {"warcinfo", "metadata"}:
        raise SourceError(f"{url} has only metadata of pages; if it is a WAT, write wat:{url}")
    if kind == "wat" and kinds & {"response", "resource", "request"}:
        raise SourceError(f"{url} has the pages themselves and is no WAT; write warc:{url}")


def _find_pictures(url: str, opt_out: bool) -> _Pictures:
    found = _Pictures()
    for record in read_records(url, lambda record: 0):
        key = normalise_url(record.uri)
        if record.problem or not _may_serve(record):
            continue
        if (target := _target(record)) is not None:
            found.elsewhere.setdefault(key, (normalise_url(target), record.number))
        elif key not in found.stored:
            refused = opt_out_of(record.headers) if opt_out else None
            stored = Stored(pointer=_pointer(url, record), refused=refused)
            found.stored[key] = (stored, record.number)
    return found


def _may_serve(record: WarcRecord) -> bool:
    """Whether a record is a picture, or leads to what may be one."""
    if _target(record) is not None:
        return True
    is_answer = record.kind in ("response", "resource") and record.status in _GOOD
    return is_answer and not record.cut and _type(record).startswith("image/")


def _target(record: WarcRecord) -> str | None:
    """Where the content of a record lies, if not in itself."""
    if record.kind == "revisit":
        return record.refers_to or record.uri
    if record.status in _REDIRECTS and (location := record.header("location")):
        try:
            return urljoin(record.uri, location)
        except ValueError:
            return None
    return None


def _is_page(record: WarcRecord) -> bool:
    is_answer = record.kind in ("response", "resource") and record.status in _GOOD
    # What its type does not tell, its beginning does.
    return is_answer and (_type(record) in _HTML or not _type(record))


def _type(record: WarcRecord) -> str:
    """The media type of what was received; of a vague one, what the crawler took it for."""
    if record.content_type in _VAGUE and record.identified:
        return record.identified
    return record.content_type


def _pointer(url: str, record: WarcRecord) -> str:
    if record.place is None:
        return packed_warc_pointer(url, record.number)
    return warc_pointer(url, *record.place)


def _reason_of(record: WarcRecord) -> str:
    """Why a record is neither a page nor a picture that a page shows."""
    if record.kind == "revisit":
        return REVISIT
    if record.status not in _GOOD:
        return f"http {record.status}"
    if _type(record).startswith("image/"):
        return TRUNCATED_RECORD if record.cut else OF_NO_PAGE
    return NOT_A_PAGE


@dataclass(frozen=True)
class _Pages:
    """Makes rows of the pages of an archive."""

    url: str
    rows: RowBuilder
    pictures: _Pictures
    documents: bool
    opt_out: bool

    def add(self, record: WarcRecord) -> None:
        """The rows of a record that is a page, or of one that is nothing."""
        if record.problem or not _is_page(record):
            self.refuse(record, record.problem or _reason_of(record))
            return
        try:
            data = payload_of(record, LARGEST_PAGE)
        except PayloadError as error:
            self.refuse(record, str(error))
            return
        if record.more or len(data) > LARGEST_PAGE:
            self.refuse(record, LARGE_PAGE)
            return
        if not _type(record) and not _looks_like_html(data):
            self.refuse(record, NOT_A_PAGE)
            return
        page = read_page(decode_page(data, record.charset))
        refused = opt_out_of(record.headers, page.metas) if self.opt_out else None
        if refused:
            self.refuse(record, refused, FAILED_TO_DOWNLOAD)
        elif self.documents:
            self._add_document(record, data, page)
        else:
            found = [self._stored(image) for image in page.pictures(record.uri)]
            add_pictures(self.rows, found, record.uri, {"crawl_date": record.date})

    def refuse(self, record: WarcRecord, reason: str, status: str = FAILED_TO_DECODE) -> None:
        """A row that comes in failed."""
        name = self.url.rpartition("/")[2]
        facts = {"crawl_date": record.date, "record": record.kind}
        add_refused(self.rows, record.uri, facts, status, reason, (name, record.number))

    def _stored(self, image: PageImage) -> tuple[PageImage, Stored | None]:
        """A picture with where it lies in the archive, under the address that it has there."""
        found = self.pictures.find(image.urls)
        if found is None:
            return image, None
        return PageImage(alt=image.alt, urls=[found[0]], given=image.given), found[1]

    def _add_document(self, record: WarcRecord, data: bytes, page: WebPage) -> None:
        stored: dict[str, dict[str, str]] = {}
        for image in page.pictures(record.uri) if self.pictures.stored else ():
            if (found := self.pictures.find(image.urls)) is None:
                continue
            lies = {"pointer": found[1].pointer, "refused": found[1].refused or ""}
            for url in image.urls:
                # Whichever of its addresses is taken, it is this picture.
                stored.setdefault(normalise_url(url), lies)
        digest = hashlib.sha256(data).hexdigest()
        self.rows.add(
            SourceRow(
                kind="document",
                locator=f"{normalise_url(record.uri)}#{digest}",
                url=record.uri or None,
                pointer=_pointer(self.url, record),
                meta={
                    "crawl_date": record.date,
                    "charset": record.charset,
                    "pictures": stored,
                },
            )
        )


def _looks_like_html(data: bytes) -> bool:
    head = data[:1024].lower()
    return b"<html" in head or b"<!doctype html" in head
