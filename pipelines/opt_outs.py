"""What servers and pages say against their use in training, and the countable reason for each form.

Forms: the headers X-Robots-Tag (as img2dataset reads it, with Mojeek's `noml`), Content-Usage (IETF
aipref: draft-ietf-aipref-attach and -vocab) and tdm-reservation (W3C TDMRep), and the `<meta>` tags
of a page that say the same. `site_files.py` reads the two files that speak for a whole host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Directives of X-Robots-Tag, and of `<meta name="robots">`, that forbid use.
NO_AI = ("noai", "noimageai", "noml", "noindex", "noimageindex")

ROBOTS_HEADER = "disallowed by robots header"
CONTENT_USAGE = "disallowed by content-usage header"
TDM_HEADER = "disallowed by tdm-reservation header"
ROBOTS_META = "disallowed by robots meta tag"
TDM_META = "disallowed by tdm-reservation meta tag"
ROBOTS_TXT = "disallowed by robots.txt"
USAGE_IN_ROBOTS_TXT = "disallowed by content-usage of robots.txt"
TDMREP = "disallowed by tdmrep.json"
# All of them: nothing else is an opt-out, and no later try heals one.
OPT_OUTS = (
    ROBOTS_HEADER, CONTENT_USAGE, TDM_HEADER, ROBOTS_META, TDM_META, ROBOTS_TXT,
    USAGE_IN_ROBOTS_TXT, TDMREP,
)  # fmt: skip

OPT_OUT_HEADERS = ("X-Robots-Tag", "Content-Usage", "TDM-Reservation")

# `none` means noindex and nofollow, as search engines define it.
_FORBIDDING = frozenset((*NO_AI, "none"))
# Words that may stand before a colon without naming a crawler.
_WITH_VALUE = frozenset(
    ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
)
# A crawler's name: times of a date have colons too, behind digits and spaces.
_CRAWLER = re.compile(r"\*|[A-Za-z][\w.-]*")
# The product within a browser's likeness, as in "Mozilla/5.0 (compatible; name/1.0; +https://...)".
_COMPATIBLE = re.compile(r"\(compatible;\s*([^\s;/()]+)")
# Members of a dictionary of RFC 9651: up to a comma that is in no string and no inner list.
_MEMBER = re.compile(r'(?:"(?:\\.|[^"\\])*"?|\([^)]*\)?|[^,"(])+')
# Categories of the vocabulary, the wider before the narrower; what is not said of one is what is
# said of the wider. A dataset of ours may train either of the last two.
_WIDER = ("bots", "train-ai", "train-genai")
_TRAINING = ("train-ai", "train-genai")
_SAID = {"n": False, "?0": False, "y": True, "?1": True}


def agent_token(user_agent: str) -> str:
    """The name by which robots.txt and X-Robots-Tag call a crawler: its product token."""
    found = _COMPATIBLE.search(user_agent)
    return found[1] if found else re.split(r"[\s/;()]", user_agent.strip(), maxsplit=1)[0]


def header_opt_out(headers: Iterable[tuple[str, str]], agent: str) -> str | None:
    """The reason for which an answer with these headers, (name, value) line by line, is not used;
    None: nothing is said against it. `agent` is our product token."""
    tags: list[str] = []
    usages: list[str] = []
    reserved = False
    for name, value in headers:
        match name.lower():
            case "x-robots-tag":
                tags.append(value)
            case "content-usage":
                usages.append(value)
            case "tdm-reservation":
                reserved |= _is_reserved(value)
    if any(_forbids(tag, agent) for tag in tags):
        return ROBOTS_HEADER
    # Lines of one field are one list.
    if usages and usage_allows(", ".join(usages)) is False:
        return CONTENT_USAGE
    return TDM_HEADER if reserved else None


def meta_opt_out(name: str, content: str, agent: str = "gristmill") -> str | None:
    """The reason for which a page with `<meta name=... content=...>` is not used; None: the tag
    says nothing against it."""
    name = name.strip().lower()
    if name in ("robots", agent.lower()) and _forbids(content, agent):
        return ROBOTS_META
    return TDM_META if name == "tdm-reservation" and _is_reserved(content) else None


def usage_allows(value: str) -> bool | None:
    """Whether a value of Content-Usage lets a model be trained; None: it says nothing of that.

    A dictionary of RFC 9651, read leniently: what is no preference, or of another category, is
    passed over, and the last of several counts.
    """
    said: dict[str, bool] = {}
    for key, word in _members(value):
        if key in _WIDER and word in _SAID:
            said[key] = _SAID[word]
    allowed: bool | None = None
    found: list[bool] = []
    for category in _WIDER:
        allowed = said.get(category, allowed)
        if category in _TRAINING and allowed is not None:
            found.append(allowed)
    return all(found) if found else None


def _members(value: str) -> Iterator[tuple[str, str]]:
    """Keys and bare words of a dictionary, without parameters, spaces, quotes and capitals."""
    for member in _MEMBER.findall(value):
        key, _, word = member.partition("=")
        yield key.strip().lower(), word.partition(";")[0].strip().strip('"').lower()


def _forbids(header: str, agent: str) -> bool:
    """Whether a line of directives, for everybody or for `agent`, has one that forbids use.

    A name before a colon says whom those that follow are for, up to the next name: proxies join
    lines that were several.
    """
    ours = True
    for part in header.split(","):
        before, colon, behind = part.partition(":")
        name, word = before.strip().lower(), part.strip().lower()
        is_directive = name in _WITH_VALUE or name in _FORBIDDING
        if colon and is_directive:
            word = name
        elif colon and _CRAWLER.fullmatch(name):
            ours, word = name in ("*", agent.lower()), behind.strip().lower()
        if ours and word in _FORBIDDING:
            return True
    return False


def _is_reserved(value: str) -> bool:
    """Whether rights are reserved: 1, where lines may have been joined."""
    return any(part.strip().strip('"') == "1" for part in value.split(","))
