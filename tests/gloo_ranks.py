"""Trainings and other functions on several gloo ranks of this machine, started as torchrun does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from gristmill.model.training.train_config import TrainConfig

_START = """
import importlib, json, sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from gristmill.model.distributed.ranks import join, leave
join()
for module, name, arguments in json.load(open(sys.argv[1])):
    getattr(importlib.import_module(module), name)(*arguments)
leave()
"""


def on_ranks(
    ranks: int, folder: Path, *calls: tuple[str, str, Sequence[Any]], expected: int = 0
) -> str:
    """Call functions, as (module, name, arguments that JSON can hold), one after the other on each
    rank, and return what they said: to start the ranks takes longest."""
    folder.mkdir(parents=True, exist_ok=True)
    script, values = folder / "ranks.py", folder / "calls.json"
    script.write_text(_START.format(tests=os.path.dirname(__file__)))
    values.write_text(json.dumps(calls))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(ranks), str(script), str(values),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expected, done.stderr[-6000:]
    return done.stdout + done.stderr


def train_values(values: dict[str, Any]) -> None:
    """A training, from its settings as plain values."""
    from gristmill.model.training.train import train

    train(TrainConfig.from_dict(values))


def train_on_ranks(ranks: int, folder: Path, *configs: TrainConfig) -> str:
    """One training after the other."""
    calls = [("gloo_ranks", "train_values", [config.to_dict()]) for config in configs]
    return on_ranks(ranks, folder, *calls)


def train_counting(path: str, arguments: list[str]) -> None:
    """`gristmill train`, and in a file of each rank what it made for it."""
    from gristmill.model.distributed.ranks import rank
    from gristmill.model.training import commands, settings, training_setup

    made: list[str] = []

    def counting(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (made.append(name), make(*given, **named))[1]

    settings.codec_from_shards = counting("codec", settings.codec_from_shards)
    training_setup.train_text = counting("text", training_setup.train_text)
    app = typer.Typer()
    app.command()(commands.train)
    app(arguments, standalone_mode=False)
    with open(f"{path}-{rank()}", "w", encoding="utf-8") as file:
        json.dump(made, file)


def train_signalled(values: dict[str, Any], who: int, step: int, name: str) -> None:
    """A training of which one rank gets a signal in the middle of a step."""
    from gristmill.model.distributed.ranks import rank
    from gristmill.model.training.train import Trainer, train

    number = signal.Signals[name]
    losses = Trainer._losses

    def signalled(self: Trainer, batch: Any) -> Any:
        if rank() == who and self.step + 1 == step:
            signal.raise_signal(number)
        return losses(self, batch)

    Trainer._losses = signalled  # type: ignore[method-assign]
    result = train(TrainConfig.from_dict(values))
    assert (result.stopped_by, result.steps) == (number, step)
    assert signal.getsignal(number) is signal.SIG_DFL
