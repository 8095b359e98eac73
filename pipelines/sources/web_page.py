"""What a page says of its pictures, and of what it may be used for: its text decoded as browsers
do, its tags read in one pass."""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from lxml import etree

# Where pages that load pictures late keep the address, before what stands in for it.
_LATE = ("data-src", "data-original", "data-lazy-src", "data-lazy")
_SETS = ("srcset", "data-srcset", "data-lazy-srcset")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Labels that stand for more than their name says (WHATWG, Encoding).
_WIDER = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030",
    "euc_kr": "cp949", "shift_jis": "cp932", "iso8859-9": "cp1254", "tis-620": "cp874",
    "iso8859-11": "cp874", "big5": "big5hkscs",
}  # fmt: skip
# Its bytes are those of ASCII, so that they are UTF-8 as well.
_SHIFTING = frozenset(("iso2022_jp", "hz", "utf-7"))
_BEYOND_ASCII = re.compile("[^\x00-\x7f\ufffd]")
_HEAD = 4096
_DECLARED = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,512}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE
)
# Spaces that HTML strips; tabs and line ends within an address go too.
_BREAKS = re.compile("[\t\n\r]")
_SPACES = " \t\n\r\f"
_ABSOLUTE = re.compile("https?://[^/?#]", re.IGNORECASE)
_NAMES = re.compile("[/.?]")
_EMBEDDED = re.compile("(?:data|blob|about|javascript):", re.IGNORECASE)
# Of an address that begins with a slash, what makes it more than that of a file of the same host.
_NOT_PLAIN = re.compile(r"^//|/\.|#|\?$")
_CANDIDATE = re.compile(r"\s*(?:,\s*)*(\S*[^\s,])\s*(?:,|\s([^,]*)(?:,|$)|$)")


@dataclass(frozen=True, kw_only=True)
class PageImage:
    """An `<img>` of a page."""

    alt: str
    # Absolute http(s) addresses of the picture, the likeliest first.
    urls: Sequence[str]
    # What stands in `src`, as given.
    given: str = ""


@dataclass(kw_only=True)
class WebPage:
    """What one pass over a page's tags finds."""

    images: list[Mapping[str, str]] = field(default_factory=list)
    # (name, content) of each `<meta>`.
    metas: list[tuple[str, str]] = field(default_factory=list)
    # `href` of the first `<base>`.
    base: str = ""

    def addresses(self, url: str) -> str:
        """What addresses of the page are relative to."""
        return joined(url, self.base) or url

    def pictures(self, url: str) -> list[PageImage]:
        """Every `<img>`, with its addresses resolved."""
        base = self.addresses(url)
        return [image_of(attributes, base) for attributes in self.images]


def read_page(text: str) -> WebPage:
    """The tags of a page; nesting may be as deep as it likes, for no tree is built."""
    parser = etree.HTMLParser(target=_Tags(), huge_tree=True, encoding="utf-8")
    data = text.encode("utf-8", "replace")
    if not data.strip():
        return WebPage()
    try:
        page = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        # Nothing that is a tag.
        return WebPage()
    return page if isinstance(page, WebPage) else WebPage()


class _Tags:
    """What lxml hands each tag to."""

    def __init__(self) -> None:
        self._page = WebPage()

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element that opens."""
        if tag == "img":
            self._page.images.append(dict(attributes))
        elif tag == "meta" and "name" in attributes:
            self._page.metas.append((attributes["name"], attributes.get("content", "")))
        elif tag == "base" and not self._page.base:
            self._page.base = attributes.get("href", "")

    def close(self) -> WebPage:
        """All that was found."""
        return self._page


def decode_page(data: bytes, charset: str | None = None) -> str:
    """The text of a page: by its byte order mark, as UTF-8 where it is that, as its server or
    itself says, else as Windows-1252. What does not decode becomes U+FFFD."""
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    declared = _DECLARED.search(data, 0, _HEAD)
    said = [charset or "", declared[1].decode("ascii") if declared else ""]
    names = [name for name in map(_codec, said) if name]
    if names and (names[0] in _SHIFTING or names[0].startswith(("utf-16", "utf-32"))):
        # UTF-16 that is said in ASCII is none.
        if names[0] in _SHIFTING or b"\0" in data[:_HEAD]:
            return data.decode(names[0], "replace")
        names = names[1:]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        lenient = data.decode("utf-8", "replace")
    # Broken here and there it is UTF-8 still; one in another encoding has little that is.
    is_utf8 = len(_BEYOND_ASCII.findall(lenient)) > lenient.count("\ufffd")
    for name in () if is_utf8 else names:
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    others = [name for name in names if name != "utf-8"]
    return lenient if is_utf8 else data.decode(others[0] if others else "cp1252", "replace")


def _codec(label: str) -> str:
    """Python's name of an encoding of text, or nothing."""
    try:
        found = codecs.lookup(label.strip().strip("\"'"))
    except (LookupError, ValueError):
        return ""
    is_text = getattr(found, "_is_text_encoding", True)
    return _WIDER.get(found.name, found.name) if is_text and found.name != "idna" else ""


def joined(base: str, address: str) -> str:
    """An address as seen from `base`, absolute and http(s), else nothing."""
    address = address.strip(_SPACES)
    if not address or address[0] == "#" or _EMBEDDED.match(address):
        return ""
    address = _BREAKS.sub("", address)
    try:
        if address[:8].lower().startswith(("http://", "https://")):
            urlsplit(address)
            found = address
        elif address[0] == "/" and not _NOT_PLAIN.search(address):
            # As `urljoin` has it, in a tenth of its time.
            found = _origin(base) + address
        else:
            found = urljoin(base, address)
    except ValueError:
        return ""
    return found if _ABSOLUTE.match(found) else ""


@functools.lru_cache(maxsize=64)
def _origin(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def image_of(attributes: Mapping[str, str], base: str) -> PageImage:
    """An `<img>` by its attributes: where pictures are loaded late, that address is the picture's,
    then `src`, then what `srcset` has, the largest first."""
    given = attributes.get("src", "")
    # A flag (`data-lazy="true"`) is no address.
    found = [text for name in _LATE if _NAMES.search(text := attributes.get(name, ""))]
    # Beside such an address, `src` is what stands in for the picture, and never the picture.
    found = [text for text in found if joined(base, text)] or [given]
    for name in _SETS:
        if name in attributes:
            found += _of_set(attributes[name])
    urls = [url for url in (joined(base, one) for one in found) if url]
    # Text of an attribute is one line.
    alt = " ".join(attributes.get("alt", "").split())
    return PageImage(alt=alt, urls=list(dict.fromkeys(urls)), given=given.strip(_SPACES)[:80])


def _of_set(text: str) -> list[str]:
    """Addresses of a `srcset`, the largest first."""
    found = []
    for match in _CANDIDATE.finditer(text[:65_536]):
        if match[1]:
            size = re.match(r"\s*([\d.]+)[wx]", match[2] or "")
            try:
                found.append((float(size[1]) if size else 1.0, match[1]))
            except ValueError:
                found.append((1.0, match[1]))
    return [url for _, url in sorted(found, key=lambda one: -one[0])]
