"""A training that begins with another model first does what that did; a stopped one goes on."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gloo_ranks import train_on_ranks
from model_world import World
from safetensors.torch import load_file

from gristmill.errors import ConfigurationError, TrainingError
from gristmill.model import load
from gristmill.model.training.begin_with import codec_of
from gristmill.model.training.train import Trainer, steps_of, train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log
from gristmill.model.training.training_setup import make_setup

Make = Callable[..., TrainConfig]


def _train(config: TrainConfig) -> None:
    train(config, TrainLog(config.out, quiet=True))


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model to begin with."""
    made = world.config(tmp_path_factory.mktemp("first") / "out", steps=2)
    _train(made)
    return made.out


def _begun(config: TrainConfig) -> Trainer:
    return Trainer(config, make_setup(config), torch.device("cpu"))


@pytest.mark.parametrize("experts", ["dense", "mot"])
def test_the_new_model_does_what_the_first_did(config: Make, first: str, experts: str) -> None:
    made = config(init=first, size="same", experts=experts, seed=5)
    trainer = _begun(made)
    weights = load_file(f"{first}/model.safetensors")
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, weights[name].expand(parameter.shape)), name
        assert torch.equal(trainer.average.values[name], parameter), name
    batch = next(steps_of(made, trainer.setup))
    with torch.no_grad():
        then, now = load(first).model(batch), trainer.model(batch)
    assert torch.allclose(now.entropies, then.entropies, atol=1e-5)


def test_pictures_stand_where_they_stood(config: Make, first: str) -> None:
    """What a model learnt of places is of its own; another paradigm has its own anyway."""
    with pytest.raises(ConfigurationError, match=r"give --set picture_positions=grid"):
        make_setup(config(init=first, size="same", picture_positions="line"))
    make_setup(config("masked", init=first, size="nano", picture_positions="line"))


def test_another_paradigm_keeps_blocks_and_text(config: Make, first: str) -> None:
    made = config("flow", init=first, size="nano")
    trainer = _begun(made)
    weights = load_file(f"{first}/model.safetensors")
    found = dict(trainer.model.named_parameters())
    vocabulary = trainer.setup.vocabulary
    old = load(first).bundle.vocabulary
    assert vocabulary.encode("a red circle") == old.encode("a red circle")
    text = slice(old.text_start, old.text_start + old.text_size)
    for name in ("embed.weight", "lm.weight"):
        assert torch.equal(found[name][text], weights[name][text])
    assert all(torch.equal(found[n], weights[n]) for n in weights if n.startswith("blocks."))
    # What is new is as loud as what was there.
    new = found["latent_in.weight"].detach()
    spoken = float(new.std()) * new.shape[1] ** 0.5
    assert 0.2 < spoken / float(weights["embed.weight"][text].std()) < 5


def test_a_stopped_training_goes_on_and_does_not_begin_again(config: Make, first: str) -> None:
    folder = str(Path(first).parent / "gone")
    shutil.copytree(first, folder)
    whole = config(init=folder, size="same", steps=4, save_every=2)
    _train(whole)
    stopped = dataclasses.replace(whole, out=whole.out + "-stopped")
    shutil.copytree(
        f"{whole.out}/checkpoints/step-00000002", f"{stopped.out}/checkpoints/step-00000002"
    )
    Path(folder, "model.safetensors").unlink()
    _train(stopped)
    losses = [[line["loss"] for line in read_log(out)] for out in (whole.out, stopped.out)]
    assert losses[1] == losses[0][2:]


def test_what_does_not_fit_is_said(config: Make, first: str, world: World, tmp_path: Path) -> None:
    for changes, error, message in (
        ({"size": "micro"}, ConfigurationError, "cannot begin with these weights: blocks.2"),
        ({"size": "same", "experts": "moe"}, ConfigurationError, "but not moe of dense"),
        ({"init": str(tmp_path)}, TrainingError, "no model in .*import-model"),
        ({"tokenizer": _other_tokenizer(tmp_path)}, ConfigurationError, "different tokenizers"),
    ):
        with pytest.raises(error, match=message):
            _begun(config(**{"init": first, "size": "nano", **changes}))
    with pytest.raises(ConfigurationError, match="size same is that of --init"):
        config(size="same").check()
    assert codec_of(first).endswith("codec.safetensors") and codec_of(str(tmp_path)) == ""
    assert codec_of("") == ""


def _other_tokenizer(folder: Path) -> str:
    from gristmill.model.documents.vocabulary import train_text

    path = folder / "other.json"
    path.write_text(train_text(["quite another text"], 270))
    return str(path)


@pytest.mark.drill
def test_four_ranks_begin_as_one(config: Make, first: str, tmp_path: Path) -> None:
    alone = config(init=first, size="same", experts="mot", steps=2)
    _train(alone)
    shared = dataclasses.replace(alone, out=str(tmp_path / "shared"), replicate=2)
    train_on_ranks(4, tmp_path / "ranks", shared)
    losses = [[line["loss"] for line in read_log(out)] for out in (alone.out, shared.out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
