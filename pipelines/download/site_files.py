"""The two files that speak for a whole host: robots.txt (RFC 9309, with the Content-Usage lines of
draft-ietf-aipref-attach) and /.well-known/tdmrep.json (W3C TDMRep). Pure: nothing is fetched here.

Protego matches patterns: the longest wins, `*` and `$`, percent codes compared as what they mean.
It also takes a group of which our name only begins with, so groups are told apart here first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from protego import Protego

from gristmill.pipelines.opt_outs import (
    ROBOTS_TXT,
    TDMREP,
    USAGE_IN_ROBOTS_TXT,
    usage_allows,
)

ROBOTS_PATH = "/robots.txt"
TDMREP_PATH = "/.well-known/tdmrep.json"
# Wishes that nobody could read: until they can be, nothing is fetched (RFC 9309, 2.3.1.4).
ROBOTS_UNREACHABLE = "robots.txt unreachable"
TDMREP_UNREACHABLE = "tdmrep.json unreachable"
# Of a file that is longer the rest is not read; the RFC asks for 500 KiB at least.
FILE_BYTES = 512 * 1024

_LINE = re.compile(
    r"\s*(user[- ]?agent|allow|dis+al+ow|disalow|diasllow|disallaw|crawl[- ]delay|content-usage)"
    r"\s*[:\s]\s*(.*)",
    re.IGNORECASE,
)
# What a group is called; a version behind it is none of its name.
_TOKEN = re.compile(r"[^\s/;()]+")
_US, _ALL = "us", "*"
# Says nothing, and ends a group of user agents.
_PARTED = "crawl-delay: none"


@dataclass(frozen=True)
class Robots:
    """What a robots.txt says to one crawler."""

    rules: Protego | None = None
    usage: Protego | None = None
    # Seconds between two requests that it asks for; 0: it asks for none.
    crawl_delay_s: float = 0.0

    def opt_out(self, url: str) -> str | None:
        """The reason for which a URL of the host is not fetched; None: nothing is against it."""
        if self.rules is not None and not self.rules.can_fetch(url, _US):
            return ROBOTS_TXT
        if self.usage is not None and not self.usage.can_fetch(url, _US):
            return USAGE_IN_ROBOTS_TXT
        return None


def read_robots(data: bytes, agent: str) -> Robots:
    """A robots.txt as it speaks to a product token. What is no such file says nothing."""
    # A NUL would stand for nothing, and a line may end in any of three ways.
    text = data[:FILE_BYTES].decode("utf-8-sig", "replace").replace("\0", "")
    lines: list[str] = []
    usage: list[str] = []
    named, ours = False, False
    for raw in re.split(r"\r\n|\r|\n", text):
        found = _LINE.match(raw.partition("#")[0])
        if found is None:
            # What is not known parts no group.
            continue
        name, value = found[1].lower(), found[2].strip()
        if name.startswith("user"):
            if not named:
                # A rule, of whatever kind, parts a group from the one before it.
                ours = False
                lines.append(_PARTED)
                usage.append(_PARTED)
            group = _group(value, agent)
            named = True
            if group is not None:
                ours = True
                lines.append(f"user-agent: {group}")
                usage.append(f"user-agent: {group}")
            continue
        named = False
        if ours and name == "content-usage":
            usage += _usage_rule(value)
        elif ours:
            lines.append(f"{name}: {value}")
    rules, uses = Protego.parse("\n".join(lines)), Protego.parse("\n".join(usage))
    return Robots(rules, uses, rules.crawl_delay(_US) or 0.0)


def _group(value: str, agent: str) -> str | None:
    """Whom a group is for, if for us or for all. A name is compared whole, without its case (RFC
    9309, 2.2.1)."""
    if value.startswith(_ALL):
        return _ALL
    found = _TOKEN.match(value)
    return _US if found is not None and found[0].lower() == agent.lower() else None


def _usage_rule(value: str) -> list[str]:
    """`[path] preferences` as a rule for Protego; none, if it says nothing of training."""
    path, said = "/", value
    if value.startswith(("/", "*")):
        path, _, said = value.partition(" ")
    allows = usage_allows(said)
    return [] if allows is None else [f"{'allow' if allows else 'disallow'}: {path}"]


@dataclass(frozen=True)
class Reservations:
    """What a tdmrep.json says."""

    rules: Protego = field(default_factory=lambda: Protego.parse(""))

    def opt_out(self, url: str) -> str | None:
        """The reason for which a URL of the host is not fetched; None: nothing is against it."""
        return None if self.rules.can_fetch(url, _US) else TDMREP


def read_tdmrep(data: bytes) -> Reservations:
    """A tdmrep.json: a list of locations, patterns as those of robots.txt, each reserved or not.
    What is no such file says nothing, nor does an entry that is none."""
    try:
        said = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        said = []
    lines = ["user-agent: *"]
    for entry in said if isinstance(said, list) else [said]:
        place = entry.get("location") if isinstance(entry, dict) else None
        if not isinstance(place, str) or not place.strip().isprintable():
            continue
        reserved = str(entry.get("tdm-reservation")).strip()
        path = place.strip().replace("#", "%23")
        path = path if path.startswith(("/", "*", "http://", "https://")) else f"/{path}"
        if reserved in ("0", "1"):
            lines.append(f"{'disallow' if reserved == '1' else 'allow'}: {path}")
    return Reservations(Protego.parse("\n".join(lines)))
