"""Commands for a cluster from outside: send a run there, follow it, stop it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

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
    make_dag,
)

if TYPE_CHECKING:
    from gristmill.dags.jobs.ray_jobs import Jobs

Address = Annotated[
    str | None,
    typer.Option(help="Jobs API of the cluster's head, http://HEAD:8265; else RAY_ADDRESS."),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name that submit printed.")]
# Exit code of a command that left its job running (EX_TEMPFAIL of sysexits.h): it is not stopped.
LEFT = 75
# Said to `submit`, and not to the run that it sends.
_HERE = ("recipe", "address", "package", "wait")


def add_commands(app: typer.Typer) -> None:
    """Hang the commands on the command line."""
    for command in (submit, attach, stop, jobs):
        app.command()(command)


def submit(
    context: typer.Context,
    recipe: Recipe,
    out: Out,
    source: SourcePath = None,
    images: Images = None,
    column: Columns = None,
    keep_columns: KeepColumns = None,
    settings: Set = None,
    without: Without = None,
    limit: Limit = 0,
    address: Address = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    allow_empty: AllowEmpty = False,
    as_json: AsJson = False,
    metrics: Metrics = "",
    no_lock: NoLock = False,
    package: Annotated[
        str,
        typer.Option(
            help="code: send gristmill as it is here, whose dependencies the nodes have; wheel: "
            "nodes install it with them, by pip; image: they have this version."
        ),
    ] = "code",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job, and exit as it does.")
    ] = True,
) -> None:
    """Run a recipe on a Ray cluster from outside, with the arguments of run and files of one's own.
    Ctrl-C leaves it running; the same command goes on where it stopped."""
    import tempfile
    from pathlib import Path

    from gristmill.dags.jobs.reach import require_reach
    from gristmill.dags.jobs.shipment import pack

    to = _address(address)
    dag = make_dag(recipe, source, images, column, keep_columns, settings, without)
    dag.validate()
    for warning in require_reach(dag, out):
        _warn(warning)
    with tempfile.TemporaryDirectory(prefix="gristmill-job-") as folder:
        shipment = pack(recipe, dag, out, list(_options(context)), package, Path(folder))
        cluster = _connect(to)
        job = cluster.submit(shipment)
    print(f"{job} is sent to {cluster.address}", file=sys.stderr)
    if wait:
        _follow(cluster, job)
    else:
        print(_how_to_go_on(cluster, job), file=sys.stderr)


def attach(job: JobName, address: Address = None) -> None:
    """Print what a job has said and says, until its end, and exit as it does."""
    _follow(_connect(_address(address)), job)


def stop(job: JobName, address: Address = None) -> None:
    """Stop a job as Ctrl-C does; submitted again, it goes on where it stopped."""
    stopping = _connect(_address(address)).stop(job)
    print(f"{job} is told to stop" if stopping else f"{job} has ended already")


def jobs(address: Address = None) -> None:
    """The jobs that were sent to a cluster, the latest first."""
    from datetime import datetime

    for job in _connect(_address(address)).list():
        began = datetime.fromtimestamp(job.started) if job.started else None
        when = f"{began:%Y-%m-%d %H:%M}" if began else "not begun"
        print(f"{job.name}  {job.status:<9}  {when}  {job.recipe}  {job.out}")


def _options(context: typer.Context) -> Iterator[str]:
    """What was typed for `run`, as `run` takes it."""
    values: Mapping[str, object] = context.params
    for parameter in context.command.params:
        value = values[parameter.name or ""]
        if parameter.name in _HERE or value in (None, False, (), []) or value == parameter.default:
            continue
        option = parameter.opts[0]
        if value is True:
            yield option
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            # As one word: a value may begin with a dash.
            yield f"{option}={one}"


def _address(given: str | None) -> str:
    from gristmill.dags.engine.cluster_address import jobs_address

    return jobs_address(given)


def _connect(address: str) -> Jobs:
    from gristmill.dags.jobs.ray_jobs import Jobs

    return Jobs(address, _warn)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _follow(cluster: Jobs, job: str) -> None:
    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        code = cluster.follow(job, write)
    except KeyboardInterrupt:
        print(f"\n{job} goes on without us; {_how_to_go_on(cluster, job)}", file=sys.stderr)
        raise typer.Exit(LEFT) from None
    if code:
        raise typer.Exit(code)


def _how_to_go_on(cluster: Jobs, job: str) -> str:
    name = f"{job} --address {cluster.address}"
    return f"see it: gristmill attach {name}; end it: gristmill stop {name}"
