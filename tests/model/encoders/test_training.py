"""A tower in the training step: frozen or learning, saved with the model, needed no longer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_world import World, siglip
from safetensors.torch import load_file

from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.encoders.load import load_encoder
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog


@pytest.mark.parametrize("paradigm", ["janus", "flow-semantic"])
@pytest.mark.parametrize("learns", [False, True])
def test_a_tower_learns_if_it_is_told_to_and_travels_with_the_model(
    world: World, tmp_path: Path, paradigm: str, learns: bool
) -> None:
    encoder = siglip(tmp_path / "siglip")
    config = world.config(
        tmp_path / "out", paradigm, encoder=encoder, train_encoder=learns, steps=3, save_every=2
    )
    train(config, TrainLog(config.out, quiet=True))
    before = load_file(tmp_path / "siglip" / "model.safetensors")
    after = load_file(Path(config.out, "model.safetensors"))
    name = "post_layernorm.weight"
    theirs = next(value for key, value in before.items() if key.endswith(name))
    assert torch.equal(after["vision.norm.weight"], theirs) == (not learns)
    # Nothing of where it came from is needed any more.
    shutil.rmtree(tmp_path / "siglip")
    model = load(config.out)
    few = Sampling(steps=2, longest=4, temperature=0)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (*size, 3), np.uint8) for size in ((40, 40), (30, 90))]
    said = model.describe(pictures, few)
    assert said == [model.describe([picture], few)[0] for picture in pictures]
    assert model.bundle.image_tokenizer.grid((30, 90)).semantic == (2, 6)


def test_a_tower_that_is_no_transformer_does_not_learn(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no plain vision transformer"):
        train(world.config(tmp_path, "janus", train_encoder=True))


def test_a_training_begins_with_the_tower_that_is_asked_for(world: World, tmp_path: Path) -> None:
    """Another encoder of the same shape is not the one that --init saw through."""
    name = "vision.layers.0.up.weight"
    encoder, other = siglip(tmp_path / "one"), siglip(tmp_path / "other", seed=1)
    first = world.config(tmp_path / "first", "janus", encoder=encoder, train_encoder=True, steps=2)
    train(first, TrainLog(first.out, quiet=True))
    learnt = load_file(Path(first.out, "model.safetensors"))[name]
    found = {}
    for given in (encoder, other):
        out = tmp_path / f"begun-{len(found)}"
        begun = world.config(out, "janus", encoder=given, init=first.out, size="same", steps=1)
        train(begun, TrainLog(begun.out, quiet=True))
        found[given] = load_file(out / "model.safetensors")[name]
    assert torch.equal(found[encoder], learnt)
    assert torch.equal(found[other], load_encoder(other).weights[name.removeprefix("vision.")])
