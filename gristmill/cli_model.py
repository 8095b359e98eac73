"""The command line of the model: train, sample, evaluate."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gristmill.model.sampling import Sampling

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="--out of gristmill train.")]
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
Guidance = Annotated[float, typer.Option(help="1: the prompt alone; more: closer to it.")]
Temperature = Annotated[float, typer.Option(help="Of codes; 0 takes the likeliest.")]
Passes = Annotated[int, typer.Option("--steps", help="Passes of masked codes and of flows.")]


def add_commands(app: typer.Typer) -> None:
    """Hang the commands on the command line."""
    app.command()(train)
    app.command("train-codec")(train_codec)
    app.command("train-tokenizer")(train_tokenizer)
    for command in (generate, describe, ask, edit, evaluate):
        app.command()(command)


def train(
    size: Annotated[str, typer.Argument(help="tiny, small, base or large.")],
    data: Data,
    out: Annotated[str, typer.Option(help="Folder of the checkpoint; goes on if it holds one.")],
    paradigm: Annotated[
        str,
        typer.Option(help="ar, masked, discrete-diffusion, flow, flow-semantic, janus or query."),
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
        str, typer.Option(help="Shares: draw=0.5,describe=0.25,answer=0.25,text=...,edit=...")
    ] = "draw=0.5,describe=0.5",
    questions: Annotated[
        str, typer.Option(help="What makes questions of captions: shapes, or package.module:f.")
    ] = "",
    steps: Annotated[int, typer.Option(help="Steps of the optimiser.")] = 1000,
    rows: Annotated[int, typer.Option(help="Rows in a step, over all ranks.")] = 32,
    row_length: Annotated[int, typer.Option(help="Positions of a row.")] = 128,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Seed = 0,
    settings: Settings = None,
    address: Annotated[
        str | None, typer.Option(help="Train on a Ray cluster, e.g. ray://head:10001.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ray Train workers, with --address.")] = 1,
) -> None:
    """Train a unified model on shards. The same command goes on where it stopped."""
    from gristmill.model.settings import train_config

    config = train_config(
        size=size, data=data, out=out, paradigm=paradigm, experts=experts,
        codec=codec or _from_run(data, "tokens", "images"),
        encoder=encoder or _clip_of_run(data), split=split, where=where, tasks=tasks,
        questions=questions, steps=steps, rows=rows, row_length=row_length, rate=rate, seed=seed,
        settings=settings or [],
    )  # fmt: skip
    if address is not None:
        from gristmill.dags.on_ray import train_on_ray

        train_on_ray(config, address=address, ranks=ranks)
        return
    from gristmill.model.train import train as train_here

    result = train_here(config)
    print(
        f"{out}: {result.steps:,} steps, loss {result.first_loss:.3f} -> {result.last_loss:.3f}, "
        f"{result.tokens:,} tokens in {result.seconds:,.0f} s"
    )


def train_codec(
    kind: Annotated[str, typer.Argument(help="kmeans, fsq, vae, raw or pca.")],
    data: Data,
    out: Annotated[str, typer.Option(help="The file to write.")] = "codec.safetensors",
    side: Annotated[int, typer.Option(help="Pixels of a picture's side.")] = 30,
    patch: Annotated[int, typer.Option(help="Pixels of a patch's side.")] = 3,
    pictures: Annotated[int, typer.Option(help="Pictures to train on, at most.")] = 4000,
    steps: Annotated[int, typer.Option(help="Steps, for fsq and vae.")] = 500,
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Train an image codec on shards, and print its reconstruction ceiling."""
    from gristmill.model.settings import codec_from_shards

    made = codec_from_shards(
        kind, data, side=side, patch=patch, pictures=pictures, steps=steps, seed=seed,
        settings=settings or [], out=out,
    )  # fmt: skip
    said = f"codes {made.vocabularies}" if made.discrete else f"{made.channels} channels"
    ceiling = ", ".join(f"{name} {value:.4g}" for name, value in made.ceiling.items())
    print(f"{out}: {kind}, grid {made.grid[0]}x{made.grid[1]}, {said}; ceiling: {ceiling}")


def train_tokenizer(
    data: Data,
    out: Annotated[str, typer.Option(help="The file to write.")] = "tokenizer.json",
    size: Annotated[int, typer.Option(help="Entries, at most.")] = 32_000,
    questions: Annotated[str, typer.Option(help="As in train.")] = "",
) -> None:
    """Train a byte-level BPE on the captions of shards."""
    from gristmill.model.settings import tokenizer_from_shards

    count = tokenizer_from_shards(data, size=size, questions=questions, out=out)
    print(f"{out}: {count:,} entries")


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    n: Annotated[int, typer.Option("--n", help="How many pictures.")] = 1,
    out: Annotated[str, typer.Option(help="The picture, or the sheet of several.")] = "grid.png",
    guidance: Guidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Draw pictures of a prompt."""
    from gristmill.model import load

    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed)
    _save_sheet(out, model.generate([prompt] * n, sampling), [prompt] * n)


def describe(
    checkpoint: Checkpoint,
    pictures: Annotated[list[str], typer.Argument(help="Picture files.")],
) -> None:
    """Write a caption for each picture."""
    from gristmill.model import load
    from gristmill.model.unified import require_pictures

    shown = require_pictures(pictures)
    for path, text in zip(pictures, load(checkpoint).describe(shown), strict=True):
        print(f"{path}: {text}" if len(pictures) > 1 else text)


def ask(
    checkpoint: Checkpoint,
    picture: Annotated[str, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
) -> None:
    """Answer a question about a picture."""
    from gristmill.model import load
    from gristmill.model.unified import require_pictures

    shown = require_pictures([picture])
    print(load(checkpoint).ask(shown, [question])[0])


def edit(
    checkpoint: Checkpoint,
    picture: Annotated[str, typer.Argument(help="A picture file.")],
    instruction: Annotated[str, typer.Argument(help="What to change.")],
    out: Annotated[str, typer.Option(help="The file to write.")] = "edited.png",
    guidance: Guidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Change a picture as an instruction says."""
    from gristmill.model import load
    from gristmill.model.unified import require_pictures

    shown = require_pictures([picture])
    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed)
    _save_sheet(out, model.edit(shown, [instruction], sampling), [instruction])


def evaluate(
    checkpoint: Checkpoint,
    suite: Annotated[str, typer.Option(help="shapes, or shards: held-out samples.")] = "shapes",
    data: Annotated[str, typer.Option(help="Shards of the suite 'shards'.")] = "",
    split: Annotated[str, typer.Option(help="Their split.")] = "val",
    count: Annotated[int, typer.Option(help="Scenes or samples, at most.")] = 256,
    clip: Annotated[str, typer.Option(help="open_clip model for CLIP score and FID.")] = "",
    guidance: Guidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Score a model, and write evaluation.json beside it."""
    from gristmill.errors import ConfigurationError
    from gristmill.model import load
    from gristmill.model.checkpoint import write_json

    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed)
    with open(os.path.join(checkpoint, "model.json"), encoding="utf-8") as file:
        trained = int(json.load(file)["step"])
    if suite == "shapes":
        from gristmill.model.shapes_suite import evaluate_shapes

        scores = evaluate_shapes(model, count=count, seed=seed, sampling=sampling, steps=trained)
    elif suite == "shards":
        from gristmill.model.shards_suite import evaluate_shards

        scores = evaluate_shards(
            model, data, split=split, count=count, seed=seed, sampling=sampling, clip=clip,
            steps=trained,
        )  # fmt: skip
    else:
        raise ConfigurationError(f"suite {suite!r}; choose shapes or shards")
    write_json(os.path.join(checkpoint, "evaluation.json"), scores)
    print(json.dumps(scores, indent=1))


def _sampling(guidance: float, temperature: float, steps: int, seed: int) -> Sampling:
    from gristmill.model.sampling import Sampling

    return Sampling(guidance=guidance, temperature=temperature, steps=steps, seed=seed)


def _save_sheet(out: str, pictures: list[Any], words: list[str]) -> None:
    from gristmill.model.contact_sheet import contact_sheet, write_picture

    sheet = (
        pictures[0]
        if len(pictures) == 1
        else contact_sheet(list(zip(pictures, words, strict=True)))
    )
    write_picture(out, sheet)
    print(f"{out}: {len(pictures)} of {pictures[0].shape[0]}x{pictures[0].shape[1]} px")


def _from_run(data: list[str], node: str, field: str) -> str:
    """A field of a node of the run that wrote the first shards; "" if there is no such."""
    from gristmill.dags.plan import run_dag

    dag = run_dag(data[0].rpartition("@")[2])
    if dag is None or node not in dag.nodes:
        return ""
    return str(getattr(dag.nodes[node].stage, field, ""))


def _clip_of_run(data: list[str]) -> str:
    model, pretrained = _from_run(data, "clip", "model"), _from_run(data, "clip", "pretrained")
    if model.startswith("local-dir:") or not model:
        return model
    return f"{model}/{pretrained}"
