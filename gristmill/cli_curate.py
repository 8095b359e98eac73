"""Commands on runs that are there: other selections, forgetting, heads and filter networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from gristmill.command_line import command_line
from gristmill.pipelines.key_value import key_value
from gristmill.run_arguments import (
    AsJson,
    Columns,
    Images,
    Limit,
    NoLock,
    SourcePath,
    Workers,
    source_fields,
)

if TYPE_CHECKING:
    from rich.console import Console

    from gristmill.dags.runs.keep import Choice, KeepChanges

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
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Replace shards by none where nothing is kept.")
    ] = False,
    names: Annotated[bool, typer.Option("--list", help="Print the selections.")] = False,
    runner: Annotated[str, typer.Option(help="ray, or local; for --shards.")] = "ray",
    no_lock: NoLock = False,
) -> None:
    """Choose anew from a finished run, by columns that are there: seconds, not hours."""
    from rich.console import Console

    from gristmill.dags.runs.keep import choose, render_choice
    from gristmill.errors import ConfigurationError

    console = Console()
    if names:
        _print_selections(console)
        return
    if not folder:
        raise ConfigurationError("give the folder of a run, or --list")
    given = {"missing": missing, "captions": captions, "subset": subset, "subset_by": subset_by}
    changes = cast("KeepChanges", {name: text for name, text in given.items() if text is not None})
    if recipe is not None or rule:
        changes["rules"] = _rules(folder, recipe, rule or [])
    choice = choose(folder, changes, lock=not no_lock)
    console.print(render_choice(choice))
    if subset_out:
        _save_subset(choice, subset_out, console)
    if shards:
        from gristmill.dags.engine.execute import RunOptions
        from gristmill.dags.session import build_and_report

        options = RunOptions(
            runner=runner,
            limit=choice.layout.limit,
            allow_empty=allow_empty,
            lock=not no_lock,
        )
        build_and_report(choice, options, command=command_line())


def _print_selections(console: Console) -> None:
    """The selections by name."""
    from gristmill.dags.runs.selections import SELECTIONS

    for name, selection in SELECTIONS.items():
        console.print(f"{name}: {selection.doc}", highlight=False)


def _save_subset(choice: Choice, path: str, console: Console) -> None:
    """The uids that are kept, as DataComp publishes subsets."""
    import itertools

    import numpy as np

    from gristmill.pipelines.subsets import subset_file

    np.save(path, subset_file(list(itertools.chain.from_iterable(choice.uids()))))
    console.print(f"{choice.kept:,} uids in {path}")


def _rules(folder: str, recipe: str | None, rules: list[str]) -> dict[str, str]:
    """The rules of a recipe, or those of the run, with others added and taken out."""
    from gristmill.dags.runs.selections import find_selection, rules_of_run

    chosen = dict(find_selection(recipe).rules if recipe else rules_of_run(folder))
    for text in rules:
        reason, sql = key_value(text, "--rule", "reason=SQL")
        chosen.pop(reason, None)
        if sql.strip():
            chosen[reason] = sql.strip()
    return chosen


Checkpoints = Annotated[
    list[str] | None,
    typer.Option("--checkpoint", help="Folder of a training: which of its steps saw the sample."),
]


def forget(
    folder: RunFolder,
    uid: Annotated[list[str] | None, typer.Option(help="uid of a sample; repeat.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="URL of a picture; repeat.")] = None,
    sha256: Annotated[list[str] | None, typer.Option(help="Of the bytes received; repeat.")] = None,
    list_file: Annotated[
        str | None, typer.Option("--list", help="Text file: a uid, URL or sha256 a line.")
    ] = None,
    why: Annotated[str, typer.Option(help="Kept beside the tombstone.")] = "",
    checkpoint: Checkpoints = None,
    no_lock: NoLock = False,
) -> None:
    """Leave samples out from now on: readers and the trainer at once, shards when built again."""
    from gristmill.dags.runs.forget import forget as forget_now
    from gristmill.dags.runs.forget import read_list

    wanted = read_list(list_file) if list_file else []
    for kind, values in (("uid", uid), ("url", url), ("sha256", sha256)):
        wanted += [(kind, value) for value in values or []]
    found = forget_now(folder, wanted, why, lock=not no_lock)
    print(f"{len(found.uids)} rows forgotten; readers skip {found.skipped} samples of the shards")
    for said in found.unknown:
        print(f"no row has {said}; should one come, it will be left out")
    if found.skipped:
        print(
            "build the shards without them: run the same command again, or gristmill keep "
            f"{folder} --shards"
        )
    _print_sightings(folder, found.uids, checkpoint or [])


def trace(
    folder: RunFolder,
    uid: Annotated[str, typer.Argument(help="uid of a sample, its URL, or its path.")],
    checkpoint: Checkpoints = None,
) -> None:
    """Whence a sample came, each score, each verdict, its shard, and the steps that saw it."""
    from rich.console import Console

    from gristmill.dags.runs.trace import render_trace, trace_sample

    traces = trace_sample(folder, uid)
    Console().print(render_trace(traces))
    _print_sightings(folder, [one.uid for one in traces], checkpoint or [])


def _print_sightings(folder: str, uids: list[str], checkpoints: list[str]) -> None:
    from gristmill.model.training.sample_history import sightings

    for checkpoint in checkpoints:
        found = sightings(checkpoint, uids, f"{folder.rstrip('/')}/shards")
        if found.unknown:
            print(f"{checkpoint}: {found.unknown}")
        elif not found.seen:
            print(f"{checkpoint}: saw none of them in its {found.steps} steps")
        for uid, at in found.seen.items():
            steps = ", ".join(map(str, at[:8])) + (f" and {len(at) - 8} more" * (len(at) > 8))
            print(f"{checkpoint}: saw {uid} in step {steps} of {found.steps}")


def train_head(
    labels: Annotated[str, typer.Argument(help="Parquet or CSV with uid and a label a row.")],
    run: Annotated[str, typer.Option(help="Run whose embeddings the uids have.")],
    out: Annotated[str, typer.Option(help="The file to write.")] = "head.safetensors",
    label: Annotated[str, typer.Option(help="Column: yes and no, or a grade.")] = "label",
    embedding: Annotated[str, typer.Option(help="Column of the run.")] = "image_embedding",
    seed: Annotated[int, typer.Option(help="Which labels are held out.")] = 0,
) -> None:
    """Train a head on embeddings from labels, and say how good it is on labels held out."""
    import numpy as np
    import pyarrow.csv
    import pyarrow.parquet

    from gristmill.dags.runs.export import labelled_embeddings
    from gristmill.pipelines.images.embedding_heads import save_head
    from gristmill.pipelines.images.fit_head import fit_head

    reader = pyarrow.csv.read_csv if labels.endswith(".csv") else pyarrow.parquet.read_table
    column, values = labelled_embeddings(reader(labels), label, run, embedding)
    width = column.type.list_size
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    head = fit_head(np.asarray(rows, np.float32), values, seed=seed)
    save_head(out, head.weight, head.bias, head.output, head.facts)
    said = ", ".join(f"{name} {value}" for name, value in head.facts.items())
    print(f"{out}: {said}; use it with --set 'heads.heads={{my_score: {out}}}'")


def train_filter(
    source: Annotated[str, typer.Option(help="Trusted pairs: a run, its shards, or tars.")],
    out: Annotated[str, typer.Option(help="Folder of the network.")] = "filter-network",
    pairs: Annotated[int, typer.Option(help="Pairs to train on, at most.")] = 20_000,
    where: Annotated[str, typer.Option(help="SQL over metadata: which samples to trust.")] = "",
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Pairs in a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Train a small CLIP on trusted pairs, to filter by (Data Filtering Networks)."""
    from gristmill.model.training.settings import filter_from_shards

    made = filter_from_shards(
        source, out, pairs=pairs, where=where, steps=steps, batch_size=batch_size, seed=seed
    )
    print(
        f"{out}: loss {made.first_loss:.3f} -> {made.last_loss:.3f} in {made.seconds:.0f} s; use "
        f"it with --set filter.model=local-dir:{out}, then gristmill keep RUN --recipe dfn"
    )


def export(
    folder: RunFolder,
    columns: Annotated[str, typer.Option(help="Names, separated by commas.")],
    out: Annotated[str, typer.Option(help="Parquet file to write.")] = "columns.parquet",
) -> None:
    """Write columns of a run as one Parquet file: uid and whatever was scored."""
    import pyarrow.parquet

    from gristmill.dags.runs.export import read_columns

    writer, rows = None, 0
    for table in read_columns(folder, [name.strip() for name in columns.split(",")]):
        writer = writer or pyarrow.parquet.ParquetWriter(out, table.schema, compression="zstd")
        writer.write_table(table)
        rows += len(table)
    if writer is not None:
        writer.close()
    print(f"{rows:,} rows in {out}")


def publish(
    folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a finished run, or of shards alone.")
    ],
    to: Annotated[
        str, typer.Argument(metavar="URL", help="hf://datasets/OWNER/NAME[@REVISION][/PATH].")
    ],
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Make a new repository public, or publish into one that is; else new "
            "ones are private.",
        ),
    ] = False,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Also delete files of an earlier publish that are no more."),
    ] = False,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of bars.")] = False,
) -> None:
    """Publish shards as a dataset on the Hugging Face Hub, verified, with card and Croissant. The
    same command goes on after a cut. The token is HF_TOKEN, or that of `hf auth login`."""
    from rich.console import Console

    from gristmill.dags.runs.publish import publish as publish_set
    from gristmill.dags.runs.upload_progress import UploadProgress, size_text

    console = Console(stderr=True)
    with UploadProgress(None if plain or not console.is_terminal else console) as progress:
        done = publish_set(folder, to, public=public, delete=delete, progress=progress)
    if left := len(done.stale) - done.deleted:
        print(
            f"{left} files of an earlier publish are in the set no more and stay, {done.stale[0]} "
            "first; --delete removes them"
        )
    if not done.commits:
        print(f"{done.target.url}: nothing to do, all {done.reused} files are there")
        return
    print(
        f"{done.target.url}: {done.sent} files ({size_text(done.sent_bytes)}) sent, {done.reused} "
        f"were there, {done.deleted} deleted"
    )


def add(
    folder: RunFolder,
    source: SourcePath = None,
    images: Images = None,
    column: Columns = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="source.field=value of this list; repeat.", metavar="X=Y"),
    ] = None,
    limit: Limit = 0,
    runner: Annotated[str, typer.Option(help="ray, or local: this machine without Ray.")] = "ray",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: auto on one of its nodes, or HEAD:6379.")
    ] = None,
    workers: Workers = None,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of bars.")] = False,
    as_json: AsJson = False,
    no_lock: NoLock = False,
) -> None:
    """Add another list to a finished run: its rows go into new shards, old ones stay as they are,
    and what is kept already wins. Without --source, go on with a list that was stopped."""
    from gristmill.dags.engine.cluster_address import cluster_address
    from gristmill.dags.engine.execute import RunOptions
    from gristmill.dags.runs.add import added_source
    from gristmill.dags.runs.plan import open_run
    from gristmill.dags.session import add_and_report
    from gristmill.errors import ConfigurationError

    if runner != "local":
        cluster_address(address)
    given = [name for name, one in (("--images", images), ("--column", column),
                                    ("--set", settings), ("--limit", limit)) if one]  # fmt: skip
    if source is None and given:
        raise ConfigurationError(f"{given[0]} says something of a list; give it with --source")
    found = None
    if source is not None:
        fields = source_fields(source, images, column)
        found = added_source(open_run(folder), fields, settings or ())
    options = RunOptions(runner=runner, address=address, workers=workers, lock=not no_lock)
    add_and_report(
        folder, found, options, limit=limit, plain=plain, as_json=as_json, command=command_line()
    )


def repair(
    folder: RunFolder,
    dry_run: Annotated[bool, typer.Option(help="Only say what is wrong.")] = False,
    runner: Annotated[str, typer.Option(help="ray, or local: this machine without Ray.")] = "local",
    plain: Annotated[bool, typer.Option(help="Plain lines instead of bars.")] = False,
    no_lock: NoLock = False,
) -> None:
    """Make a damaged run whole: take back what is not right, and run it again, to the same bytes
    where the source answers as it did. Exits with 1 if anything is wrong still."""
    from rich.console import Console

    from gristmill.dags.engine.execute import RunOptions
    from gristmill.dags.engine.progress import make_progress
    from gristmill.dags.runs.repair import repair as repair_run

    options = RunOptions(runner=runner, lock=not no_lock)
    with make_progress(Console(), plain or None, log=None) as progress:
        found = repair_run(folder, options, progress, dry_run=dry_run)
    for problem in found.found:
        print(f"{'wrong' if dry_run else 'mended'}: {problem}")
    for text in found.otherwise:
        print(f"changed: {text}")
    for problem in found.left:
        print(f"wrong still: {problem}")
    if found.left or (dry_run and found.found):
        raise typer.Exit(1)
    print(f"{folder}: {'nothing was wrong' if not found.found else 'everything is right again'}")


def clean(
    folder: RunFolder,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    no_lock: NoLock = False,
) -> None:
    """Remove what no current node of a run uses: stale fingerprints and left-over files."""
    from gristmill.dags.runs.clean import clean_run

    freed = clean_run(folder, dry_run=dry_run, lock=not no_lock)
    print(f"{'would free' if dry_run else 'freed'} {freed / 1e6:.1f} MB")


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into the application."""
    for command in (add, keep, forget, trace, export, publish, repair, clean):
        app.command()(command)
    app.command("train-head")(train_head)
    app.command("train-filter")(train_filter)
