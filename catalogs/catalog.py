"""The catalog: facts about public datasets, and `catalog:NAME@PATH` as a source.

Gristmill downloads no index by itself: the user fetches it, under its licence, and says where it
lies.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypedDict

import yaml

from gristmill.errors import ConfigurationError

MODALITIES = ("image-text", "video-text", "interleaved", "edit", "text")
USES = (
    "understanding", "text-to-image", "editing", "interleaved", "conditional", "video",
    "evaluation",
)  # fmt: skip
# Whether one must ask: no; accept terms, or fill in a form; yes, and wait to be let in.
GATED = ("no", "terms", "yes", "unknown")
# Facts that can be right or wrong, in the order in which they are shown.
CHECKED = (
    "paper", "size", "size_bytes", "format", "columns", "obtain", "gated", "index_license",
    "content_license", "redistributable", "withdrawn",
)  # fmt: skip
UNKNOWN = "unknown"
# What a licence may be called by an identifier alone (https://spdx.org/licenses).
SPDX = frozenset((
    "Apache-2.0", "BSD-3-Clause", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0",
    "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "GPL-3.0-only", "MIT", "MS-PL", "ODC-By-1.0",
))  # fmt: skip


class CatalogWarning(UserWarning):
    """A dataset that can be read, and had better not be."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One dataset. A fact that `verified` does not name was checked by nobody."""

    name: str
    title: str
    home: str
    # Name on the hub, OWNER/NAME, if it can be had there.
    hub: str = ""
    paper: str = ""
    # One of MODALITIES.
    modality: str
    # What it is trained for, one of USES; or that it is no set to train on.
    use: str
    # Rows of the index; 0 where unknown.
    size: int = 0
    # What a row holds, or what else is counted, in words.
    holds: str = ""
    # Of what has to be fetched; 0 where unknown.
    size_bytes: int = 0
    year: int
    # Our column -> theirs.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Source format of the index.
    format: str = "auto"
    # Whether the index says what the pictures show.
    captions: bool = True
    # What the user has to do to get the index.
    obtain: str
    # Commands that fetch it, where its home names them.
    commands: Sequence[str] = ()
    # One of GATED.
    gated: str = UNKNOWN
    # An identifier of SPDX, or words.
    index_license: str
    content_license: str
    # Whether the pictures themselves may be passed on.
    redistributable: bool = False
    # Why it is given out no more; empty if it is.
    withdrawn: str = ""
    # Entries that stand in its place.
    instead: Sequence[str] = ()
    # Recipe that reads it; empty if none does yet.
    recipe: str = ""
    # Fact -> where it was looked up.
    verified: Mapping[str, str] = field(default_factory=dict)

    def is_benchmark(self) -> bool:
        """Whether it is there to measure by, and not to train on."""
        return self.use == "evaluation"

    def unchecked(self) -> list[str]:
        """Facts that it states and nobody could look up."""
        return [
            name
            for name in CHECKED
            if name not in self.verified and self._states(name) and name != "withdrawn"
        ]

    def _states(self, name: str) -> bool:
        value = getattr(self, name)
        if name in ("gated", "index_license", "content_license"):
            return bool(value != UNKNOWN)
        if name in ("format", "columns") and not (self.recipe or self.is_benchmark()):
            return False
        return name == "redistributable" or bool(value)


def names() -> list[str]:
    """Names of all entries, sorted."""
    files = importlib.resources.files("gristmill.catalogs").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load(name: str) -> CatalogEntry:
    """One entry; `ConfigurationError` with the nearest name if there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "gristmill catalog list shows all"
        raise ConfigurationError(f"no dataset {name!r} in the catalog; {hint}")
    file = importlib.resources.files("gristmill.catalogs").joinpath(f"{name}.yaml")
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    unknown = set(values) - {one.name for one in fields(CatalogEntry)}
    if unknown:
        raise ConfigurationError(f"catalog entry {name}: unknown facts {sorted(unknown)}")
    return CatalogEntry(name=name, **values)


class SourceFields(TypedDict, total=False):
    """Fields of a Source, as the command line gives them."""

    path: str
    format: str
    images: str
    # Our column -> theirs.
    columns: Mapping[str, str]
    name: str


def resolve(source: str, *, measured: bool = False) -> SourceFields:
    """Fields of a Source for what stands behind --source; `catalog:NAME@PATH` brings its columns.

    Warns (`CatalogWarning`) of a set that was withdrawn, and of a benchmark that is no evaluation
    (`measured`). Raises `ConfigurationError` where no path is given.
    """
    if not source.startswith("catalog:"):
        return {"path": source}
    name, at, path = source.removeprefix("catalog:").partition("@")
    entry = load(name)
    if not at or not path:
        if entry.withdrawn:
            raise ConfigurationError(
                f"{in_its_place(entry)} To read what you have of it: catalog:{name}@PATH"
            )
        raise ConfigurationError(
            f"say where the index of {name} lies: catalog:{name}@PATH. {entry.obtain}"
        )
    if entry.withdrawn:
        warnings.warn(in_its_place(entry), CatalogWarning, stacklevel=2)
    if entry.is_benchmark() and not measured:
        warnings.warn(
            f"{name} is a benchmark: a model that has seen it is not measured by it. To keep it "
            f"out of a corpus: --set decontaminate.sources=catalog:{name}@PATH",
            CatalogWarning,
            stacklevel=2,
        )
    return {
        "path": path,
        "format": entry.format,
        "columns": dict(entry.columns),
        "name": entry.name,
    }


def in_its_place(entry: CatalogEntry) -> str:
    """Why a set was withdrawn, and what to use instead."""
    others = " or ".join(f"catalog:{name}" for name in entry.instead)
    use = f"use {others}" if others else "there is nothing in its place"
    return f"{entry.name} was withdrawn ({entry.withdrawn}); {use}."


def select(
    *, modality: str = "", use: str = "", license_text: str = "", redistributable: bool = False
) -> list[CatalogEntry]:
    """Entries of a modality and a use, whose content's licence holds a text, or that may be passed
    on. Raises `ConfigurationError` for an unknown modality or use."""
    for name, value, known in (("modality", modality, MODALITIES), ("use", use, USES)):
        if value and value not in known:
            raise ConfigurationError(f"{name} {value!r}; choose one of {', '.join(known)}")
    return [
        entry
        for entry in map(load, names())
        if modality in ("", entry.modality)
        and use in ("", entry.use)
        and license_text.lower() in entry.content_license.lower()
        and (entry.redistributable or not redistributable)
    ]


def check(name: str) -> list[str]:
    """What is wrong with an entry's facts, in words; empty if they are whole."""
    entry = load(name)
    problems = []
    for fact in ("title", "home", "obtain", "index_license", "content_license"):
        if not str(getattr(entry, fact)).strip():
            problems.append(f"no {fact}")
    for fact, known in (("modality", MODALITIES), ("use", USES), ("gated", GATED)):
        if getattr(entry, fact) not in known:
            problems.append(f"{fact} {getattr(entry, fact)!r} is none of {', '.join(known)}")
    if not entry.home.startswith("https://"):
        problems.append(f"home {entry.home!r} is no https URL")
    if entry.paper.startswith("arXiv") and not re.fullmatch(r"arXiv \d{4}\.\d{4,5}", entry.paper):
        problems.append(f"paper {entry.paper!r} is not written as arXiv 2304.14108")
    if not 2000 <= entry.year <= 2100 or entry.size < 0 or entry.size_bytes < 0:
        problems.append(f"year {entry.year} or size {entry.size} cannot be")
    for fact in ("index_license", "content_license"):
        if not is_licence(getattr(entry, fact)):
            problems.append(f"{fact} {getattr(entry, fact)!r} is neither in SPDX nor in words")
    if entry.is_benchmark() and entry.recipe:
        problems.append("a benchmark has no recipe")
    if bool(entry.instead) and not entry.withdrawn:
        problems.append("something stands in its place, and it was not withdrawn")
    problems += [f"instead of it: no entry {one!r}" for one in entry.instead if one not in names()]
    for fact, where in entry.verified.items():
        if fact not in CHECKED or not where.strip():
            problems.append(f"verified {fact!r} is no fact, or says not where")
        elif not entry._states(fact):
            problems.append(f"verified {fact!r} is not stated")
    return [f"{name}: {problem}" for problem in problems]


def is_licence(text: str) -> bool:
    """Whether a text is an identifier of `SPDX`, or `unknown`, or says it in words."""
    return text in SPDX or text == UNKNOWN or " " in text
