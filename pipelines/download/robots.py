"""The X-Robots-Tag header: whether a server asks that a picture be left alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NO_AI = ("noai", "noimageai", "noindex", "noimageindex")

# Words that may stand before a colon without naming a crawler.
_DIRECTIVES_WITH_VALUE = (
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
)


def is_disallowed(headers: Iterable[str], agent: str, directives: Sequence[str] = NO_AI) -> bool:
    """Whether any X-Robots-Tag header, for everybody or for `agent`, has one of `directives`.

    The same rule as img2dataset's; `none` means noindex and nofollow, as search engines define it.
    """
    wanted = {directive.strip().lower() for directive in directives}
    if "noindex" in wanted:
        wanted.add("none")
    for header in headers:
        name, colon, rest = header.partition(":")
        name = name.strip().lower()
        if not colon or name in _DIRECTIVES_WITH_VALUE or "," in name:
            named, listed = "", header
        else:
            named, listed = name, rest
        if named in ("", "*", agent.lower()):
            found = {word.strip().lower() for word in listed.split(",")}
            if found & wanted:
                return True
    return False
