"""The catalog: facts about public datasets, and `catalog:NAME@PATH` as a source.

Gristmill downloads no index by itself: the user fetches it, under its licence, and says where it
lies.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypedDict

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gristmill.errors import ConfigurationError

MODALITIES = ("image-text", "video-text", "interleaved", "edit")
USES = ("understanding", "text-to-image", "editing", "interleaved", "conditional", "video")


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One dataset. Facts that were not checked against its home are marked by `verified: false`."""

    name: str
    title: str
    home: str
    paper: str = ""
    # One of MODALITIES.
    modality: str
    # What it is trained for, one of USES.
    use: str
    # Rows of the index; 0 where unknown.
    size: int = 0
    year: int
    # Our column -> theirs.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Source format of the index.
    format: str = "auto"
    # What the user has to do to get the index.
    obtain: str
    index_license: str
    content_license: str
    # Whether the pictures themselves may be passed on.
    redistributable: bool = False
    # Recipe that reads it; empty if none does yet.
    recipe: str = ""
    verified: bool = False


def names() -> list[str]:
    """Names of all entries, sorted."""
    files = importlib.resources.files("gristmill.catalogs").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load(name: str) -> CatalogEntry:
    """One entry; `ConfigurationError` with the nearest name if there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}"
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


def resolve(source: str) -> SourceFields:
    """Fields of a Source for what stands behind --source; `catalog:NAME@PATH` brings its
    columns."""
    if not source.startswith("catalog:"):
        return {"path": source}
    name, at, path = source.removeprefix("catalog:").partition("@")
    entry = load(name)
    if not at or not path:
        raise ConfigurationError(
            f"say where the index of {name} lies: --source catalog:{name}@PATH. {entry.obtain}"
        )
    return {
        "path": path,
        "format": entry.format,
        "columns": dict(entry.columns),
        "name": entry.name,
    }


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
            problems.append(f"{name}: no {fact}")
    if entry.modality not in MODALITIES:
        problems.append(f"{name}: modality {entry.modality!r} is none of {', '.join(MODALITIES)}")
    if entry.use not in USES:
        problems.append(f"{name}: use {entry.use!r} is none of {', '.join(USES)}")
    if not entry.home.startswith("https://"):
        problems.append(f"{name}: home {entry.home!r} is no https URL")
    if entry.paper.startswith("arXiv") and not re.fullmatch(r"arXiv \d{4}\.\d{4,5}", entry.paper):
        problems.append(f"{name}: paper {entry.paper!r} is not written as arXiv 2304.14108")
    if not 2000 <= entry.year <= 2100 or entry.size < 0:
        problems.append(f"{name}: year {entry.year} or size {entry.size} cannot be")
    return problems


def render_list(entries: Sequence[CatalogEntry]) -> Table:
    """Entries as a table for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "use", "modality", "rows", "year", "content's licence", "read by"):
        table.add_column(column, justify="right" if column in ("rows", "year") else "left")
    for entry in entries:
        rows = f"{entry.size:,}" if entry.size else "?"
        table.add_row(
            entry.name, entry.use, entry.modality, rows, str(entry.year), entry.content_license,
            entry.recipe or "-",
        )  # fmt: skip
    return table


def render_entry(name: str) -> Group:
    """All facts of an entry, and the command that reads it."""
    entry = load(name)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for fact in fields(CatalogEntry):
        value = getattr(entry, fact.name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{ours} = {theirs}" for ours, theirs in value.items())
        if isinstance(value, int) and not isinstance(value, bool) and fact.name == "size":
            value = f"{value:,}" if value else "unknown"
        table.add_row(fact.name, Text(str(value)))
    command = f"gristmill run {entry.recipe} --source catalog:{name}@PATH --out runs/{name}"
    if not entry.recipe:
        command = "no recipe reads it yet"
    return Group(table, Text(command, style="dim"))
