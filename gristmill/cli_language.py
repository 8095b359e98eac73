"""The command line of language models: import, export, chat."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gristmill.model.training.commands import Seed

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="--out of train or of import-model.")
]


def add_commands(app: typer.Typer) -> None:
    """Hang the commands on the command line."""
    app.command("import-model")(import_model)
    app.command("export-model")(export_model)
    app.command()(chat)


def import_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder with config.json, .gguf file, or OWNER/NAME of the hub."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder of the checkpoint.")],
    paradigm: Annotated[
        str, typer.Option(help="How it is to see and draw; others than ar need --codec.")
    ] = "ar",
    experts: Annotated[
        str, typer.Option(help="As the model has them; mot doubles dense ones.")
    ] = "",
    codec: Annotated[str, typer.Option(help="Image codec; without, it only reads.")] = "",
    encoder: Annotated[str, typer.Option(help="Semantic encoder, as in train.")] = "",
) -> None:
    """Make a checkpoint of a pretrained language model: Llama, SmolLM2, Mistral, Qwen2, Qwen3."""
    from gristmill.model.pretrained.import_model import import_model as import_here

    said = import_here(
        model, out, paradigm=paradigm, experts=experts, codec=codec, encoder=encoder
    )  # fmt: skip
    print(f"{out}: {said}")


def export_model(
    checkpoint: Checkpoint,
    out: Annotated[str, typer.Option(help="Folder to write.")],
    format: Annotated[str, typer.Option(help="hf: what transformers loads.")] = "hf",
    weights: Annotated[
        str, typer.Option(help="average, or last: those of the newest checkpoint.")
    ] = "average",
) -> None:
    """Write the text path of a checkpoint as others load it."""
    from gristmill.errors import require_known
    from gristmill.model.pretrained.export_model import export_model as export_here

    require_known("format", format, ("hf",))
    print(f"{out}: {export_here(checkpoint, out, weights=weights)}")


def chat(
    checkpoint: Checkpoint,
    text: Annotated[str, typer.Argument(help="What to say; <image> stands for a picture.")],
    pictures: Annotated[
        list[str] | None, typer.Option("--picture", help="A picture file; repeat.")
    ] = None,
    system: Annotated[str, typer.Option(help="What the system says first.")] = "",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Only so many of the likeliest; 0: all.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 1024,
    seed: Seed = 0,
) -> None:
    """Say something to a model, by its tokenizer's own chat template; the answer is written as it
    comes."""
    from gristmill.model import load
    from gristmill.model.sampling.decoding import Sampling
    from gristmill.model.sampling.unified import require_pictures

    shown = require_pictures(pictures or [])
    sampling = Sampling(temperature=temperature, top_k=top_k, longest=max_tokens, seed=seed)
    sampling.check()
    messages = [("system", system)] if system else []
    load(checkpoint).chat([*messages, ("user", text)], shown, sampling, _say)
    print()


def _say(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
