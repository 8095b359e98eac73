"""The catalog: facts about public datasets, and `catalog:NAME@PATH` as a source.

Gristmill downloads no index by itself: the user fetches it, under its licence, and says where it
lies.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gristmill.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One dataset. Facts that were not checked against its home are marked by `verified: false`."""

    name: str
    title: str
    home: str
    paper: str = ""
    # image-text, video-text, interleaved, edit.
    modality: str
    # Rows of the index; 0 where unknown.
    size: int = 0
    year: int
    # Our column -> theirs.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Source format of the index.
    format: str = "auto"
    # What the user has to do to get the index.
    obtain: str
    index_licence: str
    content_licence: str
    # Whether the pictures themselves may be passed on.
    redistributable: bool = False
    recipe: str
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


def resolve(source: str) -> dict[str, Any]:
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


def render_list() -> Table:
    """All entries as a table for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "modality", "rows", "year", "pictures' licence", "title"):
        table.add_column(column, justify="right" if column in ("rows", "year") else "left")
    for name in names():
        entry = load(name)
        rows = f"{entry.size:,}" if entry.size else "?"
        table.add_row(
            name, entry.modality, rows, str(entry.year), entry.content_licence, entry.title
        )
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
    return Group(table, Text(command, style="dim"))
