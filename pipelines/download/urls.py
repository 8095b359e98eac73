"""URLs as they are sent: byte for byte as given where that is valid.

Signatures cover the bytes of a URL, and servers tell `%2F` from `/`: nothing valid is rewritten.
Only what no request may hold is quoted (RFC 3986), but for brackets, which everybody sends as they
are.
"""

from __future__ import annotations

import re

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
    return parse_url(location if _SCHEME.match(location) else _joined(str(url), location))


def _joined(base: str, relative: str) -> str:
    """RFC 3986, section 5.2. The standard library's `urljoin` loses `?` at an end, `;`, and slashes
    that follow one another."""
    scheme, _, rest = base.partition("://")
    if relative.startswith("//"):
        return f"{scheme}:{relative}"
    host, _, asked = rest.partition("/")
    path, mark, query = relative.partition("#")[0].partition("?")
    old_path, old_mark, old_query = f"/{asked}".partition("?")
    if not path:
        path = old_path
        mark, query = (mark, query) if mark else (old_mark, old_query)
    elif not path.startswith("/"):
        path = _without_dots(old_path[: old_path.rindex("/") + 1] + path)
    else:
        path = _without_dots(path)
    return f"{scheme}://{host}{path}{mark}{query}"


def _without_dots(path: str) -> str:
    """A path without `.` and `..`."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _quoted(found: re.Match[str]) -> str:
    """Percent codes of a character; bytes of a header that are no UTF-8 come as surrogates."""
    data = found[0].encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in data)
