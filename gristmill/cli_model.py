"""The command line of the model: train, sample, evaluate."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from gristmill.model.training import commands
from gristmill.model.training.commands import Data, Seed, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from gristmill.model.sampling.decoding import Sampling
    from gristmill.model.training.train_config import TrainConfig

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="--out of gristmill train.")]
Guidance = Annotated[float, typer.Option(help="1: the prompt alone; more: closer to it.")]
PictureGuidance = Annotated[
    float, typer.Option(help="The same of pictures that are given: the one edited, earlier ones.")
]
Temperature = Annotated[float, typer.Option(help="Of codes; 0 takes the likeliest.")]
Passes = Annotated[int, typer.Option("--steps", help="Passes of masked codes and of flows.")]


def add_commands(app: typer.Typer) -> None:
    """Hang the commands on the command line."""
    commands.on_cluster = _on_ray
    app.command()(commands.train)
    app.command("train-stages")(commands.train_stages)
    app.command("train-codec")(train_codec)
    app.command("train-tokenizer")(train_tokenizer)
    for command in (generate, describe, ask, edit, evaluate):
        app.command()(command)


def train_codec(
    kind: Annotated[
        str,
        typer.Argument(
            help="kmeans, two-colour, fsq, vae, raw, pca; with --set source=FOLDER "
            "pretrained-vae or pretrained-vq of diffusers, pretrained-janus-vq, "
            "pretrained-emu3-vq or pretrained-chameleon-vq."
        ),
    ],
    data: Data,
    out: Annotated[str, typer.Option(help="The file to write.")] = "codec.safetensors",
    side: Annotated[int | None, typer.Option(help="Pixels of a picture's side.")] = None,
    patch: Annotated[int | None, typer.Option(help="Pixels of a patch's side.")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures to train on, at most.")] = 4000,
    steps: Annotated[int, typer.Option(help="Steps, for fsq and vae.")] = 500,
    fid: Annotated[
        str,
        typer.Option(help="inception, or a CLIP as in evaluate: print rFID of held-out pictures."),
    ] = "",
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Train an image codec on shards, and print its reconstruction ceiling."""
    from gristmill.model.training.settings import codec_from_shards

    made = codec_from_shards(
        kind, data, side=side, patch=patch, pictures=pictures, steps=steps, seed=seed,
        settings=settings or [], out=out, fid=fid,
    )  # fmt: skip
    said = f"codes {made.vocabularies}" if made.discrete else f"{made.channels} channels"
    ceiling = ", ".join(f"{name} {value:.4g}" for name, value in made.ceiling.items())
    ceiling = ceiling or "none, it has no decoder"
    print(f"{out}: {kind}, grid {made.grid[0]}x{made.grid[1]}, {said}; ceiling: {ceiling}")


def train_tokenizer(
    data: Data,
    out: Annotated[str, typer.Option(help="The file to write.")] = "tokenizer.json",
    size: Annotated[int, typer.Option(help="Entries, at most.")] = 32_000,
    questions: Annotated[str, typer.Option(help="As in train.")] = "",
) -> None:
    """Train a byte-level BPE on the captions of shards."""
    from gristmill.model.training.settings import tokenizer_from_shards

    count = tokenizer_from_shards(data, size=size, questions=questions, out=out)
    print(f"{out}: {count:,} entries")


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    n: Annotated[int, typer.Option("--n", help="How many pictures.")] = 1,
    frames: Annotated[
        int, typer.Option(help="Frames of a clip, each drawn with those before it in sight.")
    ] = 1,
    out: Annotated[str, typer.Option(help="The picture, or the sheet of several.")] = "grid.png",
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT in pixels; else the square it learnt most of.")
    ] = "",
    guidance: Guidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Draw pictures of a prompt."""
    from gristmill.model import load

    wanted = _size(size)
    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed)
    clips = model.generate_clips([prompt] * n, frames, sampling, wanted)
    drawn = [frame for clip in clips for frame in clip]
    _save_sheet(out, drawn, [prompt] * len(drawn))


def describe(
    checkpoint: Checkpoint,
    pictures: Annotated[list[str], typer.Argument(help="Picture files.")],
) -> None:
    """Write a caption for each picture."""
    from gristmill.model import load
    from gristmill.model.sampling.unified import require_pictures

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
    from gristmill.model.sampling.unified import require_pictures

    shown = require_pictures([picture])
    print(load(checkpoint).ask(shown, [question])[0])


def edit(
    checkpoint: Checkpoint,
    picture: Annotated[str, typer.Argument(help="A picture file.")],
    instruction: Annotated[str, typer.Argument(help="What to change.")],
    out: Annotated[str, typer.Option(help="The file to write.")] = "edited.png",
    guidance: Guidance = 1.0,
    picture_guidance: PictureGuidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Change a picture as an instruction says."""
    from gristmill.model import load
    from gristmill.model.sampling.unified import require_pictures

    shown = require_pictures([picture])
    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed, picture_guidance)
    _save_sheet(out, model.edit(shown, [instruction], sampling), [instruction])


def evaluate(
    checkpoint: Checkpoint,
    suite: Annotated[
        str, typer.Option(help="shapes, motion, edits, stories; or shards: held-out samples.")
    ] = "shapes",
    data: Annotated[str, typer.Option(help="Shards of the suite 'shards'.")] = "",
    split: Annotated[str, typer.Option(help="Their split.")] = "val",
    count: Annotated[int, typer.Option(help="Scenes or samples, at most.")] = 256,
    clip: Annotated[str, typer.Option(help="open_clip model for CLIP score and FID.")] = "",
    guidance: Guidance = 1.0,
    picture_guidance: PictureGuidance = 1.0,
    temperature: Temperature = 1.0,
    steps: Passes = 24,
    seed: Seed = 0,
) -> None:
    """Score a model, and write evaluation.json beside it."""
    from gristmill.errors import ConfigurationError
    from gristmill.model import load
    from gristmill.model.checkpoints.checkpoint import write_json

    model = load(checkpoint)
    sampling = _sampling(guidance, temperature, steps, seed, picture_guidance)
    with open(os.path.join(checkpoint, "model.json"), encoding="utf-8") as file:
        trained = int(json.load(file)["step"])
    if suite == "shapes":
        from gristmill.model.shapes.suite import evaluate_shapes

        scores = evaluate_shapes(model, count=count, seed=seed, sampling=sampling, steps=trained)
    elif suite == "shards":
        from gristmill.model.evaluation.shards_suite import evaluate_shards

        scores = evaluate_shards(
            model, data, split=split, count=count, seed=seed, sampling=sampling, clip=clip,
            steps=trained,
        )  # fmt: skip
    else:
        from gristmill.model.shapes.changes_suite import SUITES

        if suite not in SUITES:
            known = ", ".join(("shapes", *SUITES, "shards"))
            raise ConfigurationError(f"suite {suite!r}; choose one of {known}")
        scores = SUITES[suite](model, count=count, seed=seed, sampling=sampling)
        scores["steps"] = trained
    write_json(os.path.join(checkpoint, "evaluation.json"), scores)
    print(json.dumps(scores, indent=1))


def _size(text: str) -> tuple[int, int] | None:
    """(height, width) of "WIDTHxHEIGHT"."""
    from gristmill.errors import ConfigurationError

    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigurationError(f"--size {text!r}: write WIDTHxHEIGHT in pixels, as 768x512")
    return int(height), int(width)


def _sampling(
    guidance: float, temperature: float, steps: int, seed: int, picture_guidance: float = 1.0
) -> Sampling:
    from gristmill.model.sampling.decoding import Sampling

    return Sampling(
        guidance=guidance, picture_guidance=picture_guidance, temperature=temperature, steps=steps,
        seed=seed,
    )  # fmt: skip


def _save_sheet(out: str, pictures: Sequence[NDArray[np.uint8]], words: list[str]) -> None:
    from gristmill.model.sampling.contact_sheet import contact_sheet, write_picture

    sheet = (
        pictures[0]
        if len(pictures) == 1
        else contact_sheet(list(zip(pictures, words, strict=True)))
    )
    write_picture(out, sheet)
    print(f"{out}: {len(pictures)} of {pictures[0].shape[0]}x{pictures[0].shape[1]} px")


def _on_ray(address: str, ranks: int) -> Callable[[TrainConfig], None]:
    from gristmill.dags.engine.cluster_address import cluster_address

    if address != "local":
        cluster_address(address)

    def launch(config: TrainConfig) -> None:
        from gristmill.dags.engine.on_ray_train import train_on_ray

        train_on_ray(config, address=address, ranks=ranks)

    return launch
