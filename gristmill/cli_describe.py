"""Commands that say what there is: recipes, stages with their fields, columns. One line each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer


def recipes() -> None:
    """The recipes, one line each."""
    from gristmill.dags.recipes.describe import describe_recipes

    _print([(one.name, one.summary) for one in describe_recipes()])


def stages(
    name: Annotated[
        str, typer.Argument(help="A stage, or pkg.mod:Class; nothing: all, one line each.")
    ] = "",
) -> None:
    """The stages with their shapes; with a name, the fields of one and the columns it writes."""
    from gristmill.pipelines.describe import describe_stage, describe_stages, find_stage

    if not name:
        _print([(one.name, one.shape, one.summary) for one in describe_stages()])
        return
    stage = describe_stage(find_stage(name))
    print(f"{stage.name} ({stage.shape})\n\n{textwrap.indent(stage.doc, '    ')}")
    if stage.reads:
        print("\nreads: " + ", ".join(stage.reads))
    if stage.fields:
        print("\nfields, as in --set node.field=value:")
        _print(
            [
                (
                    f"{field.name}: {field.type} = {field.default}",
                    field.limits,
                    field.text + (" (Speed only.)" if field.execution else ""),
                )
                for field in stage.fields
            ]
        )
    if stage.columns:
        print("\ncolumns:")
        _print(
            [
                (one.name, one.type, one.limits, one.meaning + _only(one.only_with))
                for one in stage.columns
            ]
        )


def columns(
    recipe: Annotated[
        str, typer.Argument(help="A recipe, a .yaml file, or pkg.mod:function.")
    ] = "image-text",
) -> None:
    """The columns of a recipe, which rules may name: node, name, type, range, meaning."""
    from gristmill.dags.recipes.describe import describe_recipe

    _print(
        [
            (
                f"{node.name} (left out)" if node.disabled else node.name,
                column.name,
                column.type,
                column.limits,
                column.meaning + _only(column.only_with),
            )
            for node, column in describe_recipe(recipe).columns()
        ]
    )


def _only(setting: str) -> str:
    return f" (Only with {setting}.)" if setting else ""


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    """Lines with their cells below one another, whatever the terminal's width: `grep` finds them
    whole. A cell that is much wider than the others of its column moves the rest of its line."""
    widths = [min(max(map(len, cells)), 40) for cells in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into the application."""
    for command in (recipes, stages, columns):
        app.command()(command)
