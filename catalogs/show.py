"""How the catalog is shown: to a person, and to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gristmill.catalogs.catalog import UNKNOWN, CatalogEntry, in_its_place

_GATED = {
    "no": "no",
    "terms": "terms to accept, or a form",
    "yes": "yes: ask, and wait to be let in",
    UNKNOWN: UNKNOWN,
}
# Characters of a command on one line.
_LONGEST = 74
_NAMES = {
    "size": "rows",
    "size_bytes": "size",
    "gated": "gated",
    "index_license": "licence of the index",
    "content_license": "licence of the pixels",
    "redistributable": "pixels may be passed on",
}
# Rules of the recipes that a set without captions breaks.
_CAPTION_RULES = {
    "image-text": ("no caption", "short caption", "weak caption match"),
    "video-text": ("no caption", "weak caption match"),
}


def to_plain(entry: CatalogEntry) -> dict[str, Any]:
    """All facts of an entry for JSON, with those that nobody checked and the commands."""
    values = asdict(entry)
    values["instead"], values["commands"] = list(entry.instead), [*_fetching(entry), *use(entry)]
    return {**values, "unchecked": entry.unchecked()}


def _fetching(entry: CatalogEntry) -> list[str]:
    """Commands that fetch an index."""
    if entry.withdrawn:
        return []
    given = list(entry.commands)
    if entry.hub and not given:
        if entry.gated in ("yes", "terms"):
            given.append("hf auth login")
        given.append(f"hf download {entry.hub} --repo-type dataset --local-dir {entry.name}")
    return given


def use(entry: CatalogEntry) -> list[str]:
    """Commands that read an index, or keep it out of a corpus."""
    at = f"catalog:{entry.name}@PATH"
    if entry.is_benchmark():
        return [
            "gristmill run image-text --source CORPUS --out runs/corpus "
            f'--set decontaminate.sources={at} --set "keep.rules.in a benchmark='
            'contaminated_by IS NOT NULL"'
        ]
    if not entry.recipe:
        return []
    command = f"gristmill run {entry.recipe} --source {at} --out runs/{entry.name}"
    if not entry.captions:
        rules = _CAPTION_RULES[entry.recipe]
        command += "".join(f' --set "keep.rules.{rule}="' for rule in rules)
    return [command]


def render_list(entries: Sequence[CatalogEntry]) -> RenderableType:
    """Entries as a table for a terminal, those to train on before benchmarks."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("gated", no_wrap=True)
    table.add_column("licence of the index", ratio=1)
    table.add_column("licence of the pixels", ratio=1)
    table.add_column("read by", no_wrap=True)
    ordered = sorted(entries, key=lambda entry: (entry.is_benchmark(), entry.name))
    for entry in ordered:
        reader = "decontaminate" if entry.is_benchmark() else entry.recipe or "-"
        gated = "withdrawn" if entry.withdrawn else "?" if entry.gated == UNKNOWN else entry.gated
        table.add_row(
            Text(entry.name, style="dim" if entry.withdrawn else ""),
            short_count(entry.size), "hub" if entry.hub else "home", gated,
            Text(entry.index_license), Text(entry.content_license), reader,
        )  # fmt: skip
    return table


def fact_name(fact: str) -> str:
    """What a person calls a fact."""
    return _NAMES.get(fact, fact)


def short_count(size: int) -> str:
    """A count in three figures."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return str(size) if size else "?"


def render_entry(entry: CatalogEntry) -> Group:
    """All facts of an entry, each with a number of the source that says so, how it is had, and
    what nobody could check."""
    sources = list(dict.fromkeys(entry.verified.values()))
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, fact, value in _lines(entry):
        facts.add_row(label, _marked(entry, fact, value, sources))
    parts: list[RenderableType] = [Text.assemble((entry.title, "bold"), f"  {entry.home}"), facts]
    if entry.withdrawn:
        warning = _marked(entry, "withdrawn", in_its_place(entry), sources)
        warning.stylize("bold red")
        parts.insert(1, warning)
    parts.append(_steps(entry, _marked(entry, "obtain", entry.obtain, sources)))
    if sources:
        where = Table(box=None, pad_edge=False, show_header=False, style="dim")
        where.add_column(no_wrap=True)
        where.add_column(overflow="fold")
        for number, source in enumerate(sources, 1):
            where.add_row(f"[{number}]".replace("[", r"\["), Text(source))
        parts += [Text("\nlooked up in", style="bold"), where]
    if entry.unchecked():
        said = ", ".join(map(fact_name, entry.unchecked()))
        parts.append(Text(f"\n(?) nobody could check: {said}"))
    return Group(*parts)


def _marked(entry: CatalogEntry, fact: str, value: str, sources: Sequence[str]) -> Text:
    """A fact with the number of its source, or that it has none."""
    mark = ""
    if fact in entry.verified:
        mark = f" [{sources.index(entry.verified[fact]) + 1}]"
    elif fact in entry.unchecked():
        mark = " (?)"
    return Text.assemble(value, (mark, "dim"))


def _lines(entry: CatalogEntry) -> list[tuple[str, str, str]]:
    """Label, fact, value, of what is said about an entry."""
    rows = f"{entry.size:,}" if entry.size else UNKNOWN
    found = [
        ("name", "", entry.name),
        ("for", "", f"{entry.use}; {entry.modality}; {entry.year}"),
        ("paper", "paper", entry.paper or "none known"),
        ("rows", "size", rows),
        ("holds", "", entry.holds),
        ("size", "size_bytes", _bytes(entry.size_bytes)),
        ("format", "format", entry.format),
        ("columns", "columns", _mapping(entry.columns)),
        ("captions", "", "" if entry.captions else "none in the index"),
        ("licence of the index", "index_license", entry.index_license),
        ("licence of the pixels", "content_license", entry.content_license),
        ("pixels may be passed on", "redistributable", "yes" if entry.redistributable else "no"),
        ("gated", "gated", _GATED[entry.gated]),
    ]
    return [line for line in found if line[2]]


def _bytes(size: int) -> str:
    return f"{size / 10**9:,.3g} GB" if size else UNKNOWN


def _mapping(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{ours} = {theirs}" for ours, theirs in columns.items())


def _steps(entry: CatalogEntry, obtain: Text) -> Group:
    """How it is had and read."""
    lines = [Text("\nhow to have it", style="bold"), obtain]
    lines += [Text(_command(command)) for command in _fetching(entry)]
    lines.append(Text("\nhow to read it", style="bold"))
    commands = use(entry)
    lines += [Text(_command(command)) for command in commands]
    if not commands:
        lines.append(Text("no recipe reads it yet"))
    return Group(*lines)


def _command(command: str) -> str:
    """A command as it can be copied: parted before its options if it is long."""
    parted = len(command) > _LONGEST
    return "  " + (command.replace(" --", " \\\n      --") if parted else command)
