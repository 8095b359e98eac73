"""The command line. Every command imports what it needs, when it runs: --help costs nothing."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from gristmill import (
    __version__,
    cli_curate,
    cli_describe,
    cli_explore,
    cli_jobs,
    cli_language,
    cli_model,
)
from gristmill.command_line import command_line
from gristmill.errors import GristmillError
from gristmill.run_arguments import (
    AllowEmpty,
    AsJson,
    Columns,
    Images,
    KeepColumns,
    Limit,
    Metrics,
    NoLock,
    Out,
    Recipe,
    RetryFailed,
    Set,
    SourcePath,
    Without,
    Workers,
    cautions_said,
    make_dag,
)
from gristmill.stop_signals import stopped_by_sigterm

app = typer.Typer(
    name="gristmill",
    help="Curate image-text data into training shards on Ray, and train unified models on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
catalog_app = typer.Typer(help="Facts about public datasets.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")

CatalogJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]
RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, local or any fsspec URL.")
]


@app.command()
def run(
    recipe: Recipe,
    out: Out,
    source: SourcePath = None,
    images: Images = None,
    column: Columns = None,
    keep_columns: KeepColumns = None,
    settings: Set = None,
    without: Without = None,
    limit: Limit = 0,
    runner: Annotated[str, typer.Option(help="ray, or local: this machine without Ray.")] = "ray",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: auto on one of its nodes, or HEAD:6379.")
    ] = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    allow_empty: AllowEmpty = False,
    debug: Annotated[
        bool, typer.Option(help="Stages in this process, no poison isolation.")
    ] = False,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of bars.")] = False,
    as_json: AsJson = False,
    metrics: Metrics = "",
    no_lock: NoLock = False,
) -> None:
    """Run a recipe into a folder. The same command goes on where it stopped."""
    from gristmill.dags.engine.execute import RunOptions
    from gristmill.dags.engine.supervision import Supervision
    from gristmill.dags.session import run_and_report

    dag = make_dag(recipe, source, images, column, keep_columns, settings, without)
    options = RunOptions(
        runner="local" if debug else runner,
        address=address,
        workers=workers,
        limit=limit,
        retry_failed=retry_failed,
        allow_empty=allow_empty,
        supervision=Supervision(isolate=not debug),
        lock=not no_lock,
    )
    run_and_report(
        dag, out, options, plain=plain, as_json=as_json, metrics=metrics, command=command_line()
    )


@app.command()
def plan(
    recipe: Recipe,
    out: Out,
    source: SourcePath = None,
    images: Images = None,
    column: Columns = None,
    keep_columns: KeepColumns = None,
    settings: Set = None,
    without: Without = None,
    limit: Limit = 0,
    show_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the resolved DAG as YAML.")
    ] = False,
    pilot: Annotated[
        int, typer.Option(help="Run so many rows into OUT/pilot, and estimate the whole.")
    ] = 0,
    rows: Annotated[
        int | None, typer.Option(help="Rows of the source, where only reading would tell.")
    ] = None,
    price: Annotated[
        str,
        typer.Option(
            help="What an hour of a core and of a GPU, a request, and a GB for a month cost, e.g. "
            "gpu=2.5,cpu=0.05,request=0.4e-6,gb=0.023; for --pilot."
        ),
    ] = "",
    runner: Annotated[str, typer.Option(help="ray, or local; for --pilot.")] = "ray",
    no_lock: NoLock = False,
) -> None:
    """Say what would run, what is reused, how many parts, and what each node needs."""
    from rich.console import Console

    from gristmill.dags.dag_yaml import dump_dag
    from gristmill.dags.runs.plan import make_plan, render_plan
    from gristmill.dags.runs.price import cost_of, parse_prices, render_cost

    dag = make_dag(recipe, source, images, column, keep_columns, settings, without)
    prices = parse_prices(price, pilot) if price else None
    if show_yaml:
        dag.validate()
        print(dump_dag(dag), end="")
        return
    console = Console()
    console.print(render_plan(make_plan(dag, out, limit)))
    if pilot:
        from gristmill.dags.engine.execute import RunOptions
        from gristmill.dags.engine.progress import make_progress
        from gristmill.dags.runs.pilot import render_pilot, run_pilot
        from gristmill.pipelines.storage import Folder

        options = RunOptions(runner=runner, lock=not no_lock)
        with make_progress(console, None, log=None) as progress:
            found = run_pilot(dag, out, pilot, options, progress, rows)
        console.print(render_pilot(found, dag))
        if prices is not None:
            remote = not Folder(out).is_local
            console.print(render_cost(cost_of(found, dag, prices, is_remote=remote)))


@app.command()
def status(
    folder: RunFolder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until nothing is left to do.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 10.0,
) -> None:
    """How far a run is, on this machine or anywhere."""
    from rich.console import Console

    from gristmill.dags.runs.plan import render_plan, run_status, watch_status

    console = Console()
    if watch:
        watch_status(folder, every, console)
    else:
        console.print(render_plan(run_status(folder)))


@app.command()
def report(folder: RunFolder) -> None:
    """Write the report of a run again, and print its summary."""
    from gristmill.dags.session import write_report

    write_report(folder, command=command_line())


@app.command()
def verify(folder: RunFolder) -> None:
    """Check digests, the ledger and the shards of a run. Exits with 1 if anything is wrong."""
    from gristmill.dags.runs.verify import verify_run

    problems = verify_run(folder)
    for problem in problems:
        print(f"wrong: {problem}")
    if problems:
        raise typer.Exit(1)
    print(f"{folder}: digests match, the ledger adds up, every shard can be read")


@app.command()
def demo(
    what: Annotated[
        str, typer.Argument(help="image, video, interleaved or edit: which little world.")
    ] = "image",
    out: Annotated[str, typer.Option(help="Folder; runs/demo, or runs/demo-video.")] = "",
    full: Annotated[
        bool,
        typer.Option("--full", help="Of pictures: scenes of two objects, and eight times as many."),
    ] = False,
    scenes: Annotated[
        int | None, typer.Option(help="Clean pictures in the little web, else those of the scale.")
    ] = None,
    runner: Annotated[
        str, typer.Option(help="ray, or local: this machine without Ray; else that of the scale.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the little web and the filter network.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the model's training, else those of the scale; 0: none."),
    ] = None,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of bars.")] = False,
) -> None:
    """Draw a little web with planted faults, curate it, check the result against the truth; of
    pictures, train a tiny model on what was kept, and show what it draws and says."""
    if what != "image":
        from gristmill.dags.demos.find import find_demo, run_media_demo

        run_media_demo(
            what,
            find_demo(what),
            out or f"runs/demo-{what}",
            seed=seed,
            runner=runner or "ray",
            plain=plain,
            command=command_line(),
        )
        return
    from gristmill.dags.demos.images import run_demo
    from gristmill.dags.demos.scale import choose_scale

    scale = choose_scale(full=full, scenes=scenes, steps=steps)
    run_demo(
        out or ("runs/demo-full" if full else "runs/demo"),
        scale,
        seed=seed,
        runner=runner or scale.runner,
        plain=plain,
        command=command_line(),
    )


cli_curate.add_commands(app)
cli_describe.add_commands(app)
cli_explore.add_commands(app)
cli_jobs.add_commands(app)
cli_model.add_commands(app)
cli_language.add_commands(app)


@catalog_app.command("list")
def catalog_list(
    modality: Annotated[
        str, typer.Option(help="image-text, video-text, interleaved, edit or text.")
    ] = "",
    use: Annotated[
        str,
        typer.Option(
            help="understanding, text-to-image, editing, interleaved, conditional, video; or "
            "evaluation: benchmarks."
        ),
    ] = "",
    license_text: Annotated[
        str, typer.Option("--license", help="What the content's licence must say, e.g. CC-BY.")
    ] = "",
    redistributable: Annotated[
        bool, typer.Option("--redistributable", help="Only content that may be passed on.")
    ] = False,
    as_json: CatalogJson = False,
) -> None:
    """The datasets that the catalog knows, with the licences of index and pixels."""
    from rich.console import Console

    from gristmill.catalogs.catalog import select
    from gristmill.catalogs.show import render_list, to_plain

    entries = select(
        modality=modality, use=use, license_text=license_text, redistributable=redistributable
    )
    if as_json:
        print(json.dumps([to_plain(entry) for entry in entries], indent=1, ensure_ascii=False))
        return
    Console().print(render_list(entries))
    benchmarks = sum(entry.is_benchmark() for entry in entries)
    unchecked = sum(bool(entry.unchecked()) for entry in entries)
    print(
        f"\n{len(entries) - benchmarks} datasets and {benchmarks} benchmarks. {unchecked} have "
        "facts that nobody could check; gristmill catalog show NAME says which"
    )


@catalog_app.command("check")
def catalog_check(
    what: Annotated[
        str, typer.Argument(help="A name, NAME@PATH to try an index, or nothing for all.")
    ] = "",
) -> None:
    """Whether entries are whole; with a path, whether its index has the columns we expect."""
    from gristmill.catalogs.catalog import check, load, names, resolve

    name, at, _ = what.partition("@")
    problems = [problem for one in ([name] if name else names()) for problem in check(one)]
    if at and not problems:
        from gristmill.dags.recipes.evaluations import evaluation_source
        from gristmill.dags.recipes.find import recipe

        entry = load(name)
        stage: Any
        if entry.is_benchmark():
            stage = evaluation_source(f"catalog:{what}")
        else:
            with cautions_said():
                fields = resolve(f"catalog:{what}")
            stage = recipe(entry.recipe or "image-text")(**fields).stage("source")
        first = next(iter(stage.read(stage.chunks()[0])))
        row = first.slice(0, 1).to_pylist()[0]
        print(f"first row: url {row['url'] or row['pointer']}, caption {row['caption']!r}")
        described = entry.captions and (entry.recipe != "interleaved")
        if described and not first["caption"].drop_null():
            problems.append(f"{what}: no caption in the first {len(first)} rows; see --column")
    for problem in problems:
        print(f"wrong: {problem}")
    if problems:
        raise typer.Exit(1)
    print("all is well")


@catalog_app.command("show")
def catalog_show(
    name: Annotated[str, typer.Argument(help="Name of a dataset.")],
    as_json: CatalogJson = False,
) -> None:
    """All that is known about one dataset, from where, and what nobody could check."""
    from rich.console import Console

    from gristmill.catalogs.catalog import load
    from gristmill.catalogs.show import render_entry, to_plain

    entry = load(name)
    if as_json:
        print(json.dumps(to_plain(entry), indent=1, ensure_ascii=False))
    else:
        Console().print(render_entry(entry))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"gristmill {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: errors of ours are one message, not a traceback; to be stopped is no error."""
    with stopped_by_sigterm() as stops:
        try:
            app()
        except GristmillError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(2)
        except SystemExit as end:
            # What typer makes of KeyboardInterrupt.
            if end.code != 130:
                raise
        except KeyboardInterrupt:
            pass
        else:
            return
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(stops.exit_code)
