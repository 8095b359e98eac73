"""Pages that are made from the code when the site is built: stages, recipes, the command line.

A line `<!-- made: NAME ARGUMENT -->` in a page is replaced by what the function of that name here
returns; one page a stage and a recipe is written beside their index. Git ignores those.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer.main

from gristmill.catalogs.catalog import select
from gristmill.catalogs.show import fact_name, short_count
from gristmill.cli import app as command_line_app
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.find import RECIPES, recipe
from gristmill.pipelines import STAGES, stage_name
from gristmill.pipelines.describe import (
    ColumnDescription,
    FieldDescription,
    describe_fields,
    describe_stage,
    describe_stages,
    find_stage,
    summary_of,
)
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ROW, ROW_FACTS, range_text

MARK = re.compile(r"^<!-- made: ([a-z-]+) ?(.*?) -->$", re.MULTILINE)
SHAPES = {
    "Read": "Read: where rows come from",
    "Map": "Map: rows in, rows out",
    "Score": "Score: columns for the same rows",
    "Global": "Global: columns from the whole corpus",
    "Keep": "Keep: which rows stay",
    "Write": "Write: the product",
}


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("config-inited", lambda app, config: write_pages(Path(app.srcdir)))
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda found: MAKERS[found[1]](found[2]), source[0])


def write_pages(folder: Path) -> None:
    """A page a stage and a recipe; those of stages that are gone go."""
    pages = {f"stages/{name}.md": _stage_page(name) for name in STAGES}
    pages |= {f"recipes/{name}.md": _recipe_page(name) for name in RECIPES}
    for kind in ("stages", "recipes"):
        for file in (folder / kind).glob("*.md"):
            if file.name != "index.md" and f"{kind}/{file.name}" not in pages:
                file.unlink()
    for name, text in pages.items():
        file = folder / name
        # Untouched where nothing changed, so that Sphinx does not read it again.
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _stage_page(name: str) -> str:
    stage = describe_stage(find_stage(name))
    users = [
        f"[{other}](../recipes/{other}.md) as `{node}`"
        for other in RECIPES
        for node, held in recipe(other)(path="SOURCE").nodes.items()
        if stage_name(type(held.stage)) == name
    ]
    lines = [f"# {name}", "", stage.doc, "", f"A *{stage.shape}*, in `{STAGES[name]}`.", ""]
    if users:
        lines += [f"In recipes: {', '.join(users)}.", ""]
    if stage.fields:
        lines += ["## Fields", "", _fields(stage.fields), ""]
    if stage.reads:
        lines += ["## Reads", "", ", ".join(f"`{column}`" for column in stage.reads), ""]
    if stage.columns:
        lines += ["## Writes", "", _columns(stage.columns), ""]
    return "\n".join(lines)


def _recipe_page(name: str) -> str:
    made = recipe(name)
    dag: Dag = made(path="SOURCE")
    nodes = {node: (describe_stage(held.stage), held) for node, held in dag.nodes.items()}
    lines = [f"# {name}", "", inspect.cleandoc(made.__doc__ or ""), "", "## Nodes", ""]
    lines += ["| node | stage | takes | |", "|---|---|---|---|"]
    for node, (stage, held) in nodes.items():
        takes = ", ".join(f"`{other}`" for other in held.inputs)
        idle = "idle until it is given something to do" if held.stage.is_disabled() else ""
        lines.append(f"| `{node}` | [{stage.name}](../stages/{stage.name}.md) | {takes} | {idle} |")
    for node, (_, held) in nodes.items():
        if isinstance(held.stage, Keep):
            lines += [
                "",
                f"## Rules of `{node}`",
                "",
                "| reason | drops a row where |",
                "|---|---|",
            ]
            rules = held.stage.rules.items()
            lines += [f"| {reason} | `{_cell(rule)}` |" for reason, rule in rules]
    lines += ["", "## Columns", "", "What a rule may name, by the node that writes it.", ""]
    for node, (stage, held) in nodes.items():
        if stage.columns and not isinstance(held.stage, Keep):
            lines += [f"### `{node}`", "", _columns(stage.columns), ""]
    return "\n".join(lines)


def stage_index(_: str) -> str:
    """Stages by shape, and the table of contents."""
    lines, known = [], describe_stages()
    for shape, said in SHAPES.items():
        lines += [f"## {said}", "", "| stage | what it does |", "|---|---|"]
        lines += [
            f"| [{stage.name}]({stage.name}.md) | {_cell(stage.summary)} |"
            for stage in known
            if stage.shape == shape
        ]
        lines.append("")
    return "\n".join(lines + _contents(sorted(STAGES)))


def recipe_index(_: str) -> str:
    """Recipes, and the table of contents."""
    lines = ["| recipe | what it does |", "|---|---|"]
    for name in RECIPES:
        said = summary_of(inspect.cleandoc(recipe(name).__doc__ or ""))
        lines.append(f"| [{name}]({name}.md) | {_cell(said)} |")
    return "\n".join([*lines, "", *_contents(list(RECIPES))])


def _contents(names: list[str]) -> list[str]:
    return ["```{toctree}", ":hidden:", "", *names, "```"]


def commands(_: str) -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(command_line_app)
    return "\n".join(
        line for name in group.commands for line in _command(name, group.commands[name])
    )


def _command(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        inner = command.commands
        return [line for other in inner for line in _command(f"{name} {other}", inner[other])]
    arguments = [_placeholder(one) for one in command.params if one.param_type_name == "argument"]
    lines = [f"## gristmill {name}", "", command.help or "", ""]
    lines += ["```text", " ".join(["gristmill", name, *arguments, "[OPTIONS]"]), "```", ""]
    lines += ["| argument or option | default | |", "|---|---|---|"]
    for one in command.params:
        if one.name == "help":
            continue
        said = _placeholder(one) if one.param_type_name == "argument" else ", ".join(one.opts)
        default = "required" if one.required else _default(one.default)
        lines.append(f"| `{said}` | {default} | {_cell(one.help or '')} |")
    return [*lines, ""]


def _placeholder(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]")
    return name if argument.required else f"[{name}]"


def _default(value: Any) -> str:
    return "" if value in (None, "", (), []) or value is False else f"`{value}`"


def fields(target: str) -> str:
    """The fields of a dataclass, `module:Class`."""
    module, _, name = target.partition(":")
    return _fields(describe_fields(getattr(importlib.import_module(module), name)))


def _fields(found: Sequence[FieldDescription]) -> str:
    lines = []
    for one in found:
        # Changes how fast it runs, never what it writes.
        said = f"{one.text} *Speed only.*" if one.execution else one.text
        default = f"default `{one.default}`" if one.default not in ("", "''") else ""
        lines += _entry(one.name, (one.type, default, one.limits), said)
    return "\n".join(lines)


def _columns(found: Sequence[ColumnDescription]) -> str:
    lines = []
    for one in found:
        said = f"{one.meaning} Only with {one.only_with}." if one.only_with else one.meaning
        lines += _entry(one.name, (_kind(one.type), one.limits), said)
    return "\n".join(lines)


def row_columns(_: str) -> str:
    """The columns that every row has."""
    lines = []
    for field in ROW:
        known = ROW_FACTS[field.name]
        limits = range_text(known.low, known.high)
        lines += _entry(field.name, (str(field.type), known.unit, limits), known.meaning)
    return "\n".join(lines)


def _entry(name: str, facts: Sequence[str], text: str) -> list[str]:
    """An entry of a definition list: on a telephone as on a desk nothing has to be scrolled."""
    said = " · ".join(fact.replace("|", "or") for fact in facts if fact)
    return [
        f"`{name}` · {said}" if said else f"`{name}`",
        f": {' '.join(text.split()) or '&#8203;'}",
        "",
    ]


def _kind(arrow: str) -> str:
    """An Arrow type as a person says it."""
    return re.sub(r"(fixed_size_)?list<item: (.+?)>", r"list of \2", arrow).replace(
        "halffloat", "float16"
    )


def _cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def catalog(use: str) -> str:
    """Entries of the catalog for a use, with what of each nobody could check."""
    lines = [
        "| name | rows | gated | licence of the index | licence of the pixels | read by | nobody "
        "could check |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in select(use=use):
        reader = "decontaminate" if entry.is_benchmark() else entry.recipe or "-"
        gated = f"withdrawn: {', '.join(entry.instead)}" if entry.withdrawn else entry.gated
        cells = [
            f"[{entry.name}]({entry.home})", short_count(entry.size), gated, entry.index_license,
            entry.content_license, reader, ", ".join(map(fact_name, entry.unchecked())) or "-",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


MAKERS: dict[str, Callable[[str], str]] = {
    "catalog": catalog,
    "command-line": commands,
    "stage-index": stage_index,
    "recipe-index": recipe_index,
    "row-columns": row_columns,
    "fields": fields,
}
