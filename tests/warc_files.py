"""Crawl archives for tests and benchmarks: pages as the web has them, written by warcio, the WAT
that goes with them, and what cc2dataset takes of that."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2024-05-01T10:20:30Z"
# The first bytes of what pages show until the picture comes.
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What a server said, as a record."""

    uri: str
    body: bytes
    type: str = HTML
    headers: Sequence[tuple[str, str]] = ()
    status: str = "200 OK"
    kind: str = "response"
    # More headers of the record itself.
    record: Sequence[tuple[str, str]] = ()


def write_warc(
    path: Path, answers: Iterable[Answer], *, gzip: bool = True, asked: bool = False
) -> Path:
    """An archive of answers after a warcinfo; with `asked`, a request before and a metadata record
    after each, as Common Crawl has them."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=gzip)
        _write(writer, writer.create_warcinfo_record(path.name, {"software": "tests"}))
        for answer in answers:
            if asked:
                _write(writer, _request(writer, answer.uri))
            _write(writer, _record(writer, answer))
            if asked:
                about = io.BytesIO(b"fetchTimeMs: 12\r\n")
                made = writer.create_warc_record(
                    answer.uri, "metadata", payload=about, warc_headers_dict={"WARC-Date": DATE},
                    warc_content_type="application/warc-fields",
                )  # fmt: skip
                _write(writer, made)
    return path


def _write(writer: Any, record: Any) -> None:
    writer.write_record(record)
    # warcio leaves it open.
    record.raw_stream.close()


def _request(writer: Any, uri: str) -> Any:
    head = StatusAndHeaders("GET / HTTP/1.1", [("Host", "h")], is_http_request=True)
    dated = {"WARC-Date": DATE}
    return writer.create_warc_record(uri, "request", http_headers=head, warc_headers_dict=dated)


def _record(writer: Any, answer: Answer) -> Any:
    facts = {"WARC-Date": DATE, **dict(answer.record)}
    if answer.kind == "resource":
        return writer.create_warc_record(
            answer.uri, "resource", payload=io.BytesIO(answer.body), warc_headers_dict=facts,
            warc_content_type=answer.type,
        )  # fmt: skip
    types = [("Content-Type", answer.type)] if answer.type else []
    head = StatusAndHeaders(answer.status, [*types, *answer.headers], protocol="HTTP/1.1")
    if answer.kind == "revisit":
        return writer.create_revisit_record(
            answer.uri, "sha1:" + "A" * 32, dict(answer.record).get("refers", answer.uri), DATE,
            http_headers=head,
        )  # fmt: skip
    return writer.create_warc_record(
        answer.uri, answer.kind, payload=io.BytesIO(answer.body), http_headers=head,
        warc_headers_dict=facts,
    )  # fmt: skip


# What an <img> of a made page looks like: its attributes, with %d for its number.
SHAPES = {
    "relative": 'src="/img/%d.jpg" alt="a boat no. %d"',
    "absolute": 'class=c alt="a red boat %d" src="https://cdn.test/%d.png?w=300"',
    "no scheme": 'src="//cdn.test/%d.webp" alt="boats &amp; bridges %d"',
    "no alt": 'src="/plain/%d.jpg"',
    "empty alt": 'src="/empty/%d.jpg" alt=""',
    "blank alt": 'src="/blank/%d.jpg" alt="  "',
    "embedded": f'src="{DOT}" alt="a dot %d"',
    "late": f'src="{DOT}" data-src="/late/%d.jpg" alt="a late boat %d"',
    "stand-in": 'src="/grey.gif" data-original="/real/%d.jpg" alt="a real boat %d"',
    "set": 'srcset="/set/%d-300.jpg 300w, /set/%d-900.jpg 900w" alt="a boat of a set"',
    "broken": 'src="http://[broken" alt="nowhere %d"',
    "no address": 'alt="nothing %d"',
}
WORDS = (
    "the", "of", "boat", "river", "bridge", "under", "old", "market", "red", "small", "by", "water",
    "and", "light", "a", "town",
)  # fmt: skip


def made_page(number: int, rng: random.Random, size: int = 45_000) -> tuple[bytes, list[str]]:
    """A page of about `size` bytes, and the shapes of its pictures in their order."""
    base = '<base href="/deep/er/">' if number % 10 == 3 else ""
    pieces = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page {number}</title>',
        f'{base}<meta name="description" content="boats"><style>{".a{color:red}" * 150}</style>',
        f"<script>var state = '{'x' * (size // 5)}';</script></head><body><nav><ul>",
    ]
    pieces += [f'<li><a href="/{i}.html">{rng.choice(WORDS)}</a></li>' for i in range(40)]
    pieces.append(f"</ul></nav><main><article><h1>Boats of page {number}</h1>")
    shapes: list[str] = []
    length = sum(map(len, pieces))
    while length < size:
        text = " ".join(rng.choices(WORDS, k=70))
        pieces.append(f'<p class="text">{text} <a href="/a">more</a>.</p>')
        if rng.random() < 0.45:
            shapes.append(rng.choice(list(SHAPES)))
            ordinal = number * 1_000 + len(shapes)
            shape = SHAPES[shapes[-1]]
            filled = shape % ((ordinal,) * shape.count("%d"))
            pieces.append(f"<figure><img {filled} width=300></figure>")
        length += len(pieces[-1]) + (len(pieces[-2]) if shapes else 0)
    pieces.append("</article></main><footer>imprint</footer></body></html>")
    return "".join(pieces).encode(), shapes


def made_pages(count: int, size: int = 45_000, seed: int = 0) -> list[tuple[Answer, list[str]]]:
    """Pages of a little web, each with the shapes of its pictures."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        body, shapes = made_page(number, rng, size)
        uri = f"https://site{number % 50}.test/section/{number}.html"
        found.append((Answer(uri, body), shapes))
    return found


class _Links(HTMLParser):
    """Links, tags of the head and base of a page, as a WAT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, str]] = []
        self.head: dict[str, Any] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "img" and "src" in said:
            alt = {"alt": said["alt"]} if said.get("alt") else {}
            self.links.append({"path": "IMG@/src", "url": said["src"], **alt})
        elif tag == "a" and "href" in said:
            self.links.append({"path": "A@/href", "url": said["href"]})
        elif tag == "base":
            self.head["Base"] = said.get("href", "")
        elif tag == "meta" and "name" in said:
            self.head.setdefault("Metas", []).append(said)


def wat_of(answer: Answer) -> dict[str, Any]:
    """What a WAT says of an answer."""
    links = _Links()
    links.feed(answer.body.decode())
    html = {"Head": links.head, **({"Links": links.links} if links.links else {})}
    response: dict[str, Any] = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": answer.status[:3], "Reason": "OK"},
        "Headers": {"Content-Type": answer.type, **dict(answer.headers)},
    }
    if "html" in answer.type:
        response["HTML-Metadata"] = html
    header = {"WARC-Type": "response", "WARC-Target-URI": answer.uri, "WARC-Date": DATE}
    return {
        "Container": {"Filename": "crawl.warc.gz", "Offset": "0", "Compressed": True},
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Metadata": header,
            "Payload-Metadata": {"HTTP-Response-Metadata": response},
        },
    }


def write_wat(path: Path, envelopes: Iterable[dict[str, Any] | bytes], gzip: bool = True) -> Path:
    """A WAT: a metadata record for each envelope, or for bytes in the place of one."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=gzip)
        _write(writer, writer.create_warcinfo_record(path.name, {"software": "tests"}))
        for envelope in envelopes:
            data = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
            uri = "https://h.test/"
            if isinstance(envelope, dict):
                uri = envelope["Envelope"]["WARC-Header-Metadata"].get("WARC-Target-URI", uri)
            made = writer.create_warc_record(
                uri, "metadata", payload=io.BytesIO(data), warc_headers_dict={"WARC-Date": DATE},
                warc_content_type="application/json",
            )  # fmt: skip
            _write(writer, made)
    return path


def cc2dataset_pairs(wat: Path) -> list[tuple[str, str, str]]:
    """(alternative text, address, page) by the rule of cc2dataset: of each HTML page, links
    `IMG@/src` with an `alt` that is not empty, made absolute by the page and its base, kept if that
    begins with http:// or https://."""
    found = []
    with wat.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type != "metadata":
                continue
            envelope = json.loads(record.content_stream().read())["Envelope"]
            response = envelope["Payload-Metadata"].get("HTTP-Response-Metadata", {})
            html = response.get("HTML-Metadata", {})
            page = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
            base = urljoin(page, html.get("Head", {}).get("Base", ""))
            for link in html.get("Links", ()):
                if link["path"] != "IMG@/src" or not link.get("alt"):
                    continue
                url = link["url"]
                if not url.startswith(("http://", "https://")):
                    url = urljoin(base, url)
                if url.startswith(("http://", "https://")):
                    found.append((link["alt"], url, page))
    return found


def count_records(path: Path, kinds: Sequence[str] = ("response", "resource", "revisit")) -> int:
    """Records of those kinds that warcio finds."""
    with path.open("rb") as file:
        return sum(record.rec_type in kinds for record in ArchiveIterator(file))


def html_page(*images: str, head: str = "", text: str = "") -> bytes:
    """A page with these `<img>` attributes between paragraphs."""
    said = text or "Along the river boats lie at the old bridge, and people wait for the light. "
    shown = "".join(f"<p>{said * 3}</p><img {image}>" for image in images)
    title = escape("Boats & bridges")
    return (
        f"<!doctype html><html><head><title>{title}</title>{head}</head><body><article>"
        f"<h1>Boats</h1>{shown}<p>{said * 3}</p></article></body></html>"
    ).encode()
