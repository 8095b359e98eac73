"""The command that opens a run as a page."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def explore(
    folder: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Folder of a finished run, local or any fsspec URL."),
    ],
    port: Annotated[int, typer.Option(help="Port on this machine; 0: a free one.")] = 0,
    edit: Annotated[
        bool,
        typer.Option("--edit", help="Let the page write ledger, report and shards anew."),
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Look at a run in a browser: scores, thresholds, rows, and what rules would make of them."""
    from gristmill.dags.explorer.server import Explorer, serving

    explorer = Explorer(folder, edit=edit)

    async def serve() -> None:
        async with serving(explorer, port) as address:
            print(f"{folder} at {address} (Ctrl-C ends it)", flush=True)
            if browser:
                import webbrowser

                webbrowser.open(address)
            await asyncio.Event().wait()

    asyncio.run(serve())


def add_commands(app: typer.Typer) -> None:
    """Put the command under `gristmill`."""
    app.command()(explore)
