"""Four ranks on this machine train as one process does, however the weights lie on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import on_ranks, train_on_ranks
from model_world import World, siglip
from safetensors.torch import load_file

from gristmill.model.checkpoints import checkpoint
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log

Make = Callable[..., TrainConfig]
# Quantities of a line that are the same for any number of ranks.
SAME = ("loss", "grad_norm", "balance", "loss_text", "loss_codes", "loss_flow", "rows")


def _quiet(config: TrainConfig) -> TrainLog:
    return TrainLog(config.out, quiet=True)


def _curve(folder: str) -> list[list[float | None]]:
    return [[line[name] for name in SAME if name in line] for line in read_log(folder)]


@pytest.mark.drill
def test_four_ranks_train_as_one(config: Make, tmp_path: Path) -> None:
    settings = {
        "moe": config("ar", experts="moe", micro_rows=1, rows_per_step=8),
        # Muon needs whole matrices, of which each rank holds a part.
        "muon": config("flow-semantic", experts="mot", optimiser="muon", rate=1e-2, replicate=2),
        "query": config("query", replicate=4, sample_every=2),
        "bf16": config("flow-semantic", experts="mot", precision="bf16"),
        "tower": config(
            "joint", precision="bf16", encoder=siglip(tmp_path / "siglip"), train_encoder=True
        ),
    }
    shared = []
    for name, made in settings.items():
        made = dataclasses.replace(made, steps=3, warmup=1)
        # As many rows in a pass, all ranks together: experts are balanced over those.
        alone = dataclasses.replace(
            made, out=str(tmp_path / "alone" / name), replicate=1, micro_rows=4 * made.micro_rows
        )
        train(alone, _quiet(alone))
        shared.append(dataclasses.replace(made, out=str(tmp_path / "shared" / name)))
    train_on_ranks(4, tmp_path / "ranks", *shared)
    for name, made in zip(settings, shared, strict=True):
        alone_out = str(tmp_path / "alone" / name)
        # Gathered in bfloat16 are gains and biases, too.
        close = 3e-2 if made.precision == "bf16" else 2e-3
        assert np.allclose(_curve(made.out), _curve(alone_out), rtol=close), name
        assert len(_curve(made.out)) == 3 and len(read_log(made.out)[0]) > 8
        mine, theirs = (load_file(f"{out}/model.safetensors") for out in (made.out, alone_out))
        assert set(mine) == set(theirs)
        assert all(torch.allclose(mine[key], theirs[key], atol=2e-2) for key in mine), name
    assert (tmp_path / "shared" / "query" / "samples" / "step-00000002.png").exists()


@pytest.mark.drill
def test_a_checkpoint_moves_between_one_two_and_four_ranks(config: Make, tmp_path: Path) -> None:
    made = config(
        "ar", experts="mot", steps=8, save_every=2, schedule="constant", optimiser="muon",
        rate=1e-2,
    )  # fmt: skip
    alone = dataclasses.replace(made, out=str(tmp_path / "alone"))
    train(alone, _quiet(alone))
    first = dataclasses.replace(made, steps=2)
    train(first, _quiet(first))
    train_on_ranks(4, tmp_path / "four", dataclasses.replace(made, steps=4, replicate=2))
    train_on_ranks(2, tmp_path / "two", dataclasses.replace(made, steps=6))
    assert [line["step"] for line in read_log(made.out)] == [1, 2, 3, 4, 5, 6]
    train(made, _quiet(made))
    assert np.allclose(_curve(made.out), _curve(alone.out), rtol=2e-3)


@pytest.mark.drill
def test_one_rank_makes_codec_and_vocabulary_for_all(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "nano", "--data", world.plain, "--out", str(out), "--steps", "2", "--rows", "4",
        "--row-length", "160", "--set", "text_vocabulary=300", "--replicate", "2",
    ]  # fmt: skip
    made = str(tmp_path / "made")
    said = on_ranks(4, tmp_path / "ranks", ("gloo_ranks", "train_counting", [made, command]))
    assert said.count("2 steps, loss") == 1
    assert json.loads(Path(made + "-0").read_text()) == ["codec", "text"]
    assert all(json.loads(Path(f"{made}-{rank}").read_text()) == [] for rank in (1, 2, 3))


@pytest.mark.drill
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_one_rank_stops_all_after_the_step(
    config: Make, tmp_path: Path, name: str
) -> None:
    whole = config(steps=6, rows_per_step=4, save_every=100)
    train(whole, _quiet(whole))
    stopped = dataclasses.replace(whole, out=str(tmp_path / "stopped"))
    on_ranks(
        2, tmp_path / "ranks", ("gloo_ranks", "train_signalled", [stopped.to_dict(), 1, 3, name])
    )
    assert checkpoint.steps(stopped.out + "/checkpoints") == [3]
    assert not Path(stopped.out, "model.json").exists()
    train(stopped, _quiet(stopped))
    assert np.allclose(_curve(stopped.out), _curve(whole.out), rtol=1e-3)
