"""Reader of WAT files: what Common Crawl says of each page, among it its pictures and their
alternative texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson
import pyarrow as pa

from gristmill.pipelines.schema import FAILED_TO_DECODE, FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.page_rows import add_pictures, add_refused, opt_out_of
from gristmill.pipelines.sources.reasons import BROKEN_RECORD, LARGE_PAGE, NOT_A_PAGE
from gristmill.pipelines.sources.row_builder import RowBuilder
from gristmill.pipelines.sources.warc_records import WarcRecord, read_records
from gristmill.pipelines.sources.web_page import PageImage, joined

# Of the JSON of a page.
_LARGEST = 64_000_000
_IMAGE = "img@/src"


def read_wat(url: str, rows: RowBuilder, *, opt_out: bool = True) -> Iterator[pa.Table]:
    """A row for each `<img>` with an address of each page; and one for each record of an answer
    that shows none, or that cannot be read, with the reason."""
    for record in read_records(url, lambda r: _LARGEST + 1 if r.kind == "metadata" else 0):
        if record.problem or record.kind not in ("warcinfo", "request"):
            _add(rows, record, url.rpartition("/")[2], opt_out)
        yield from rows.take()
    yield from rows.take(all_rows=True)


def _add(rows: RowBuilder, record: WarcRecord, file: str, opt_out: bool) -> None:
    place = (file, record.number)

    def refuse(reason: str, status: str = FAILED_TO_DECODE) -> None:
        facts = {"crawl_date": record.date, "record": record.kind}
        add_refused(rows, record.uri, facts, status, reason, place)

    if record.problem or record.kind != "metadata" or record.more:
        refuse(record.problem or (LARGE_PAGE if record.more else NOT_A_PAGE))
        return
    try:
        envelope = _inside(orjson.loads(record.payload), "Envelope")
    except ValueError:
        refuse(BROKEN_RECORD)
        return
    payload = _inside(envelope, "Payload-Metadata")
    if not payload:
        refuse(BROKEN_RECORD)
        return
    if "HTTP-Response-Metadata" not in payload:
        # Of a request, or of what the crawler says.
        return
    response = _inside(payload, "HTTP-Response-Metadata")
    status = _text(_inside(response, "Response-Message").get("Status"))
    html = _inside(response, "HTML-Metadata")
    head = _inside(html, "Head")
    refused = opt_out_of(_headers(response), _metas(head)) if opt_out else None
    if status not in ("", "200", "203"):
        refuse(f"http {status[:3]}")
    elif refused:
        refuse(refused, FAILED_TO_DOWNLOAD)
    elif "HTML-Metadata" not in response:
        refuse(NOT_A_PAGE)
    else:
        header = _inside(envelope, "WARC-Header-Metadata")
        page_url = _text(header.get("WARC-Target-URI")) or record.uri
        base = joined(page_url, _text(head.get("Base"))) or page_url
        facts = {"crawl_date": _text(header.get("WARC-Date")) or record.date}
        images = [_image(link, base) for link in _list(html.get("Links")) if _is_image(link)]
        add_pictures(rows, [(image, None) for image in images], page_url, facts)


def _is_image(link: object) -> bool:
    return isinstance(link, Mapping) and _text(link.get("path")).lower() == _IMAGE


def _image(link: object, base: str) -> PageImage:
    values = link if isinstance(link, Mapping) else {}
    given = _text(values.get("url"))
    url = joined(base, given)
    alt = " ".join(_text(values.get("alt")).split())
    return PageImage(alt=alt, urls=[url] if url else [], given=given)


def _headers(response: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, values in _inside(response, "Headers").items():
        for value in _list(values) or [values]:
            yield name, _text(value)


def _metas(head: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for meta in _list(head.get("Metas")):
        if isinstance(meta, Mapping):
            yield _text(meta.get("name")), _text(meta.get("content"))


def _inside(values: object, name: str) -> Mapping[str, object]:
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
