"""URLs as they are sent: byte for byte as given where that is valid.

Signatures cover the bytes of a URL, and servers tell `%2F` from `/`: nothing valid is rewritten.
Only what no request may hold is quoted (RFC 3986), but for brackets, which everybody sends as they
are.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

import yarl

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# What is quoted: a percent sign that begins no code, and all that is not printable ASCII or legal.
_ILLEGAL = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!-~]|[\"<>\\^`{|}]")


class BadUrl(ValueError):
    """Why a text is no URL that is fetched; a countable reason."""


def parse_url(text: str) -> yarl.URL:
    """The request that a URL stands for, without credentials and fragment. Raises `BadUrl`."""
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() not in ("http", "https"):
        raise BadUrl(
            "scheme not allowed" if scheme.isascii() and "/" not in scheme else "invalid url"
        )
    if not colon or not rest.startswith("//"):
        raise BadUrl("invalid url")
    place = rest[2:].partition("#")[0]
    cut = min((i for i in (place.find("/"), place.find("?")) if i >= 0), default=len(place))
    try:
        # Names in any script, and odd spellings of addresses, as the resolver will see them.
        origin = yarl.URL(f"{scheme.lower()}://{place[:cut]}").origin()
        asked = _ILLEGAL.sub(_quoted, place[cut:])
    except (ValueError, TypeError, UnicodeError):
        raise BadUrl("invalid url") from None
    if not origin.raw_host or origin.port is None:
        raise BadUrl("invalid url")
    if not asked.startswith("/"):
        asked = f"/{asked}"
    # All of it as path: parted from it, a query that is empty would lose its mark.
    return yarl.URL.build(
        scheme=origin.scheme, authority=origin.raw_authority, path=asked, encoded=True
    )


def redirect_target(url: yarl.URL, location: str) -> yarl.URL:
    """Where a Location header leads to from `url`. Raises `BadUrl`."""
    location = location.strip()
    if not _SCHEME.match(location):
        try:
            location = urljoin(str(url), location)
        except ValueError:
            raise BadUrl("invalid redirect") from None
    return parse_url(location)


def _quoted(found: re.Match[str]) -> str:
    """Percent codes of a character; bytes of a header that are no UTF-8 come as surrogates."""
    data = found[0].encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in data)
