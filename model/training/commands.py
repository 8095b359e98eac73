"""The `train` command, for `gristmill train` and for torchrun alike."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gristmill.model.training.train import TrainResult
    from gristmill.model.training.train_config import TrainConfig

Data = Annotated[
    list[str],
    typer.Option(
        "--data", help="A run, its shards, or WebDataset tars; WEIGHT@FOLDER to mix several."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, name=value; repeat.", metavar="X=Y"),
]
Seed = Annotated[int, typer.Option(help="Seed of what is drawn by chance.")]

on_cluster: Callable[[str, int], Callable[[TrainConfig], None]] | None = None
"""Address and ranks to what launches them on that Ray cluster; handed in, as a model knows of no
Ray. Raises `ConfigurationError` for an address that cannot work."""


def train(
    size: Annotated[
        str, typer.Argument(help="nano, micro, tiny, small, base, large; or same, as --init.")
    ],
    data: Data,
    out: Annotated[str, typer.Option(help="Folder of the checkpoint; goes on if it holds one.")],
    init: Annotated[
        str,
        typer.Option(help="Model to begin with: --out of a finished train, or of import-model."),
    ] = "",
    paradigm: Annotated[
        str,
        typer.Option(
            help="ar, masked, discrete-diffusion, flow, flow-semantic, joint, token-flow, janus or "
            "query."
        ),
    ] = "ar",
    experts: Annotated[str, typer.Option(help="dense, mot or moe.")] = "dense",
    codec: Annotated[
        str, typer.Option(help="Image codec; else that of the run's tokens, else a new one.")
    ] = "",
    encoder: Annotated[
        str, typer.Option(help="Semantic encoder; else the CLIP that scored the run.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split of the shards.")] = "train",
    where: Annotated[str, typer.Option(help="SQL over metadata: which samples to train on.")] = "",
    tasks: Annotated[
        str, typer.Option(help="Shares: draw=0.5,describe=0.25,answer=0.25,text=,edit=,chat=...")
    ] = "draw=0.5,describe=0.5",
    questions: Annotated[
        str,
        typer.Option(help="What makes questions of captions: package.module:function, or a world."),
    ] = "",
    steps: Annotated[int, typer.Option(help="Steps of the optimiser.")] = 1000,
    rows: Annotated[int, typer.Option(help="Rows in a step, over all ranks.")] = 32,
    replicate: Annotated[
        int, typer.Option(help="Whole copies of the weights, each shared out over its ranks.")
    ] = 1,
    row_length: Annotated[int, typer.Option(help="Positions of a row.")] = 128,
    patches: Annotated[
        int,
        typer.Option(help="Most places of a picture, at its own ratio; 0: as the codec's square."),
    ] = 0,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Seed = 0,
    accept_changed_data: Annotated[
        bool, typer.Option(help="Go on over shards that were written anew since the stop.")
    ] = False,
    settings: Settings = None,
    address: Annotated[
        str | None, typer.Option(help="Train on a Ray cluster: auto on one of its nodes.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ray Train workers, with --address.")] = 1,
) -> None:
    """Train a unified model on shards. The same command goes on where it stopped."""
    from gristmill.errors import ConfigurationError
    from gristmill.model.training.settings import train_config, with_codec

    launch = None
    if address is not None:
        if on_cluster is None:
            raise ConfigurationError("--address belongs to `gristmill train`, not to torchrun")
        launch = on_cluster(address, ranks)
    else:
        from gristmill.model.distributed.ranks import join

        # What the training needs made first, one rank makes.
        join()
    settled = train_config(
        size=size, data=data, out=out, init=init, paradigm=paradigm, experts=experts,
        codec=codec, encoder=encoder, split=split, where=where, tasks=tasks, questions=questions,
        steps=steps, rows=rows, row_length=row_length, patches=patches, rate=rate, seed=seed,
        replicate=replicate, accept_changed_data=accept_changed_data, settings=settings or [],
    )  # fmt: skip
    config = with_codec(settled)
    if launch is not None:
        launch(config)
        return
    from gristmill.model.training.train import train as train_here

    _report(out, train_here(config), steps)


def train_stages(
    recipe: Annotated[str, typer.Argument(help="YAML: `stages`, and `common` settings.")],
    out: Annotated[str, typer.Option(help="Folder of a folder for each stage.")],
) -> None:
    """Train in stages, each from the weights of the one before. The same command goes on."""
    from gristmill.model.training import stage_recipe

    stages = stage_recipe.read_recipe(recipe)
    trained = stage_recipe.train_stages(stages, out)
    for stage, (folder, result) in zip(stages, trained, strict=False):
        if result is not None:
            _report(folder, result, stage.arguments["steps"])


def _report(out: str, result: TrainResult, steps: int) -> None:
    """Say what a training came to, once; a signal that ended it is the exit code."""
    from gristmill.model.distributed.ranks import rank
    from gristmill.model.distributed.torchrun_errors import tell

    if result.stopped_by:
        name = signal.Signals(result.stopped_by).name
        tell(f"stopped by {name} at step {result.steps:,} of {steps:,}; the same command goes on")
        raise typer.Exit(128 + result.stopped_by)
    if rank() == 0:
        print(
            f"{out}: {result.steps:,} steps, loss {result.first_loss:.3f} -> "
            f"{result.last_loss:.3f}, {result.tokens:,} tokens in {result.seconds:,.0f} s"
        )
