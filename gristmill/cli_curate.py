"""Commands on runs that are there: other selections, forgetting, heads and filter networks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, local or any fsspec URL.")
]


def keep(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")] = "",
    recipe: Annotated[
        str | None, typer.Option(help="A selection by name; --list names them.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="reason=SQL, added to the recipe's; repeat. An empty SQL takes it out."),
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="What a rule without a value does: drop or keep.")
    ] = None,
    captions: Annotated[str | None, typer.Option(help="all, first or best of an image.")] = None,
    subset: Annotated[
        str | None, typer.Option(help="Only uids of this .npy, as DataComp publishes subsets.")
    ] = None,
    subset_by: Annotated[
        str | None, typer.Option(help="uid, or meta.NAME for a column of the source.")
    ] = None,
    subset_out: Annotated[
        str | None, typer.Option(help="Write the uids that are kept as such a .npy.")
    ] = None,
    shards: Annotated[
        bool, typer.Option("--shards", help="Also write ledger, report and shards anew.")
    ] = False,
    names: Annotated[bool, typer.Option("--list", help="Print the selections.")] = False,
    runner: Annotated[str, typer.Option(help="ray, or local; for --shards.")] = "ray",
) -> None:
    """Choose anew from a finished run, by columns that are there: seconds, not hours."""
    from rich.console import Console

    from gristmill.dags.keep_run import choose, render_choice
    from gristmill.dags.selections import SELECTIONS
    from gristmill.errors import ConfigurationError

    console = Console()
    if names:
        for name, selection in SELECTIONS.items():
            console.print(f"{name}: {selection.doc}", highlight=False)
        return
    if not folder:
        raise ConfigurationError("give the folder of a run, or --list")
    changes = _changes(folder, recipe, rule or [])
    for name, value in (
        ("missing", missing), ("captions", captions), ("subset", subset), ("subset_by", subset_by),
    ):  # fmt: skip
        if value is not None:
            changes[name] = value
    choice = choose(folder, changes)
    console.print(render_choice(choice))
    if subset_out:
        import itertools

        import numpy as np

        from gristmill.pipelines.keep import subset_file

        np.save(subset_out, subset_file(list(itertools.chain.from_iterable(choice.uids()))))
        console.print(f"{choice.kept:,} uids in {subset_out}")
    if shards:
        from gristmill.cli import command_line
        from gristmill.dags.execute import RunOptions
        from gristmill.dags.session import run_and_report

        dag = choice.layout.dag
        run_and_report(
            dag,
            folder,
            RunOptions(runner=runner, limit=choice.layout.limit),
            command=command_line(),
        )


def _changes(folder: str, recipe: str | None, rules: list[str]) -> dict[str, Any]:
    """Fields of the Keep stage by recipe and rules."""
    from gristmill.dags.selections import find_selection, rules_of_run
    from gristmill.errors import ConfigurationError

    if recipe is None and not rules:
        return {}
    chosen = dict(find_selection(recipe).rules if recipe else rules_of_run(folder))
    for text in rules:
        reason, equals, sql = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--rule {text!r}: write reason=SQL")
        chosen.pop(reason.strip(), None)
        if sql.strip():
            chosen[reason.strip()] = sql.strip()
    return {"rules": chosen}


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into the application."""
    app.command()(keep)
