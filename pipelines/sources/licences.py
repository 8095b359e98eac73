"""Licences as SPDX names them, whatever a source calls them: a column that rules can name."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score

PUBLIC_DOMAIN, CC0 = "CC-PDM-1.0", "CC0-1.0"
# Other licences under which pictures and datasets are given: what they are called -> SPDX. Spelt in
# lower case, without "the", "licence", "version", "v" and marks.
_NAMED = {
    "mit": "MIT", "expat": "MIT", "isc": "ISC", "unlicense": "Unlicense", "wtfpl": "WTFPL",
    "apache 2.0": "Apache-2.0", "apache 2": "Apache-2.0", "apache software 2.0": "Apache-2.0",
    "bsd 2 clause": "BSD-2-Clause", "simplified bsd": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "modified bsd": "BSD-3-Clause",
    "mpl 2.0": "MPL-2.0", "mozilla public 2.0": "MPL-2.0",
    "gpl 2.0": "GPL-2.0-only", "gpl 2": "GPL-2.0-only", "gpl 2.0 only": "GPL-2.0-only",
    "gpl 2.0 or later": "GPL-2.0-or-later", "gpl 2.0+": "GPL-2.0-or-later",
    "gpl 3.0": "GPL-3.0-only", "gpl 3": "GPL-3.0-only", "gpl 3.0 only": "GPL-3.0-only",
    "gpl 3.0 or later": "GPL-3.0-or-later", "gpl 3.0+": "GPL-3.0-or-later",
    "lgpl 2.1": "LGPL-2.1-only", "lgpl 3.0": "LGPL-3.0-only", "lgpl 3": "LGPL-3.0-only",
    "agpl 3.0": "AGPL-3.0-only", "agpl 3": "AGPL-3.0-only",
    "gfdl 1.2": "GFDL-1.2-only", "gfdl 1.3": "GFDL-1.3-only",
    "gnu free documentation 1.2": "GFDL-1.2-only", "gnu free documentation 1.3": "GFDL-1.3-only",
    "odbl": "ODbL-1.0", "odbl 1.0": "ODbL-1.0", "open database": "ODbL-1.0",
    "odc odbl": "ODbL-1.0", "odc by": "ODC-By-1.0", "odc by 1.0": "ODC-By-1.0",
    "open data commons attribution": "ODC-By-1.0", "pddl": "PDDL-1.0", "pddl 1.0": "PDDL-1.0",
    "cdla permissive 1.0": "CDLA-Permissive-1.0", "cdla permissive 2.0": "CDLA-Permissive-2.0",
    "cdla sharing 1.0": "CDLA-Sharing-1.0", "c uda 1.0": "C-UDA-1.0",
    "ogl uk 1.0": "OGL-UK-1.0", "ogl uk 2.0": "OGL-UK-2.0", "ogl uk 3.0": "OGL-UK-3.0",
    "open government 1.0": "OGL-UK-1.0", "open government 2.0": "OGL-UK-2.0",
    "open government 3.0": "OGL-UK-3.0", "etalab 2.0": "etalab-2.0", "licence ouverte 2.0":
    "etalab-2.0", "dl de by 2.0": "DL-DE-BY-2.0", "dl de zero 2.0": "DL-DE-ZERO-2.0",
    "free art 1.3": "LAL-1.3", "fal 1.3": "LAL-1.3", "lal 1.3": "LAL-1.3",
    "openrail": "", "unsplash": "", "pexels": "", "pixabay": "",
}  # fmt: skip
_ADDRESSED = {
    "opensource.org/licenses/mit-0": "MIT-0",
    "opensource.org/licenses/mit": "MIT",
    "www.apache.org/licenses/license-2.0": "Apache-2.0",
    "apache.org/licenses/license-2.0": "Apache-2.0",
    "opendatacommons.org/licenses/odbl": "ODbL-1.0",
    "opendatacommons.org/licenses/by": "ODC-By-1.0",
    "opendatacommons.org/licenses/pddl": "PDDL-1.0",
    "www.gnu.org/copyleft/fdl": "",
}
# Ports of Creative Commons licences that SPDX lists; another port is known by its licence alone.
_PORTS = frozenset(
    (
        *("CC-BY-2.5-AU", "CC-BY-3.0-AT", "CC-BY-3.0-AU", "CC-BY-3.0-DE", "CC-BY-3.0-IGO"),
        *("CC-BY-3.0-NL", "CC-BY-3.0-US", "CC-BY-NC-3.0-DE", "CC-BY-NC-ND-3.0-DE"),
        *("CC-BY-NC-ND-3.0-IGO", "CC-BY-NC-SA-2.0-DE", "CC-BY-NC-SA-2.0-FR"),
        *("CC-BY-NC-SA-2.0-UK", "CC-BY-NC-SA-3.0-DE", "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-3.0-DE"),
        *("CC-BY-SA-2.0-UK", "CC-BY-SA-2.1-JP", "CC-BY-SA-3.0-AT", "CC-BY-SA-3.0-DE"),
        "CC-BY-SA-3.0-IGO",
    )
)
_VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")
# Names of Flickr and of COCO, which name no version: theirs is 2.0.
_FLICKR = re.compile(r"attribution(?:[ -](?:non-?commercial|share-?alike|no-?derivs?))* licen[sc]e")
_ADDRESS = re.compile(r"(?:https?:)?//(\S+)")
_BARE_ADDRESS = re.compile(r"((?:www\.)?creativecommons\.org/\S+)")
_ZERO = re.compile(
    r"(?:creative commons )?(?:cc[ -]?0|cc[ -]zero|zero)(?:[ -]?1\.0)?(?: universal)?"
    r"(?: \(?cc[ -]?0(?: 1\.0)?\)?)?(?: public domain dedication)?(?: licen[sc]e)?"
)
_MARK = re.compile(
    r"(?:cc[ -])?(?:pdm?|public[ -]domain)(?:[ -]mark)?(?:[ -]?1\.0)?(?: universal)?"
)
_V = re.compile(r"\bv(?:ersion)?[ .]*(?=\d)")
_TERMS = (
    (re.compile(r"non[\s-]*commercial(?:ly)?|\bnc\b"), "NC"),
    (re.compile(r"no[\s-]*deriv(?:ative)?s?(?:[\s-]*works?)?|\bnd\b"), "ND"),
    (re.compile(r"share[\s-]*alike|\bsa\b"), "SA"),
    (re.compile(r"attribution|\bby\b"), "BY"),
)
_VERSION = re.compile(r"\b(\d)(?:\.(\d))?\b")
_IDENTIFIERS = {name.lower(): name for name in _NAMED.values() if name}
_NOISE = re.compile(
    r"\b(?:the|creative\s+commons?|cc|licen[sc]ed?|public\s+licen[sc]e|international|unported|"
    r"generic|universal|deed|legalcode|under|and|a)\b|[()\[\]/,:;\"'_–-]"
)

# "Apache-2.0 OR MIT", "CC BY 4.0 / CC BY-NC 4.0"; not "GPL-3.0-or-later".
_CHOICE = re.compile(r"\s(?:or|/)\s(?!later|any)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LicenceFacts(Score):
    """The licence of each row by its SPDX identifier, for rules: what sources call it has a hundred
    spellings.

    The column `licence` stays as it is. A name without its version (`CC BY`) is no licence that can
    be told, but for Flickr's, which are of 2.0; nor is `All rights reserved`, or a name that no
    table here has.
    """

    media: ClassVar[Media | None] = None

    # False: the node has nothing to do.
    enabled: bool = True

    def is_disabled(self) -> bool:
        """Whether nobody asked for it."""
        return not self.enabled

    def reads(self) -> tuple[str, ...]:
        """What the source says."""
        return ("licence",)

    def writes(self) -> pa.Schema:
        """The identifier."""
        return pa.schema([pa.field("licence_spdx", pa.string())])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What it means."""
        return {
            "licence_spdx": ColumnFacts(
                "SPDX identifier of the licence, several joined by AND; null: none, or none that "
                "is known."
            )
        }

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """One identifier a row."""
        found = [spdx(text) for text in table["licence"].to_pylist()]
        return pa.table([pa.array(found, pa.string())], schema=self.writes())


@functools.lru_cache(4096)
def spdx(licence: str | None) -> str | None:
    """The SPDX identifier of a licence, by its name, abbreviation or address; of several, in a
    list, all of them joined by AND; None where one is not known."""
    text = " ".join((licence or "").split()).strip(" .;,")
    if not text or len(text) > 300:
        return None
    if _CHOICE.search(text):
        # A choice between several is none of them.
        return None
    parts = [part for part in re.split(r"[;,|&]|\sand\s", text, flags=re.I) if part.strip()]
    found = [_one(part.strip()) for part in parts]
    names = [name for name in found if name is not None]
    # Of several, before their terms are taken for those of one.
    if len(parts) > 1 and len(names) == len(found):
        return " AND ".join(dict.fromkeys(names))
    return _one(text)


def _one(text: str) -> str | None:
    low = text.lower()
    address = _ADDRESS.fullmatch(low) or _BARE_ADDRESS.fullmatch(low)
    if address is not None:
        return _by_address(address[1].rstrip("/"))
    low = _V.sub("", low.replace("_", " "))
    if _ZERO.fullmatch(low):
        return CC0
    if _MARK.fullmatch(low):
        return PUBLIC_DOMAIN
    return _creative_commons(low) or _IDENTIFIERS.get(low) or _NAMED.get(_plain(low)) or None


def _by_address(address: str) -> str | None:
    for place, name in _ADDRESSED.items():
        if address == place or address.startswith((f"{place}/", f"{place}.", f"{place}-")):
            return name or None
    found = re.fullmatch(
        r"(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)(?:/(.*))?",
        address,
    )
    if found is None:
        return None
    kind, name, version, rest = found.groups()
    if kind == "publicdomain":
        return {"zero": CC0, "mark": PUBLIC_DOMAIN}.get(name)
    terms = {term.upper() for term in re.split(r"[+-]", name)}
    if terms - {"BY", "NC", "ND", "SA"}:
        return None
    port = (rest or "").partition("/")[0].partition(".")[0].upper()
    return _named(terms, version, port)


def _creative_commons(low: str) -> str | None:
    """By name: the terms in words or letters, and a version; nothing else may be left over."""
    rest, terms = low, set()
    for pattern, term in _TERMS:
        rest, count = pattern.subn(" ", rest)
        if count:
            terms.add(term)
    if "BY" not in terms:
        return None
    versions = {f"{whole}.{rest or 0}" for whole, rest in _VERSION.findall(rest)}
    if not versions:
        return _named(terms, "2.0", "") if _FLICKR.fullmatch(low) else None
    if len(versions) > 1:
        return None
    rest = _VERSION.sub(" ", rest)
    port = re.sub(r"[\s.]+", " ", _NOISE.sub(" ", rest)).strip().upper()
    if port and not re.fullmatch(r"[A-Z]{2}|IGO", port):
        return None
    if "creative" not in low and not re.search(r"\bcc\b|\bby\b", low):
        return None
    return _named(terms, versions.pop(), port)


def _named(terms: set[str], version: str, port: str) -> str | None:
    """The identifier of a Creative Commons licence that exists."""
    if "BY" not in terms or {"ND", "SA"} <= terms or version not in _VERSIONS:
        return None
    name = "-".join(["CC", *(term for term in ("BY", "NC", "ND", "SA") if term in terms), version])
    ported = f"{name}-{port}"
    if ported in _PORTS:
        return ported
    # 2.1 was of ports alone.
    return None if version == "2.1" else name


def _plain(low: str) -> str:
    """A name without what is around it."""
    low = re.sub(r"\bgnu\s+(?:general\s+public|gpl)\b", "gpl", low)
    low = re.sub(r"\bgeneral\s+public\s+licen[sc]e\b", "gpl", low)
    low = re.sub(r"\b(gpl|lgpl|agpl|mpl)v(?=\d)", r"\1 ", low)
    return " ".join(_NOISE.sub(" ", low).split())
