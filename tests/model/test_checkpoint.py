"""A checkpoint that was written before parameters and fields got their present names."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_world import World
from safetensors.torch import load_file, save_file

from gristmill.model import checkpoint, load
from gristmill.model.sampling import Sampling
from gristmill.model.shapes.scenes import draw, make_scene
from gristmill.model.train import Trainer, train
from gristmill.model.train_config import TrainConfig
from gristmill.model.train_log import TrainLog, read_log
from gristmill.model.training_setup import make_setup

# As release 0.1.0 wrote them.
FORMER = {"semantic_proj": "und_proj", "latent_in": "lat_in", "latent_out": "lat_out"}
MODEL_FACTS = {
    "format", "step", "model", "paradigm", "layout", "vocabulary", "codec_digest", "encoder",
    "training",
}  # fmt: skip
LAYOUT_FACTS = {
    "grid", "semantic_grid", "latents_per_query", "latent_channels", "semantic_width",
    "text_block", "time_mean", "time_shift", "text_weight", "code_balance",
}  # fmt: skip
STREAM_FACTS = {"block", "row", "cursors", "rows", "too_long", "unusable"}


def _former(value: object) -> object:
    """Keys and names in lists as they were."""
    if isinstance(value, dict):
        return {_former(key): _former(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_former(held) for held in value]
    if not isinstance(value, str):
        return value
    return ".".join(FORMER.get(part, part) for part in value.split("."))


def _write_former_checkpoint(config: TrainConfig, out: str) -> None:
    """What a training left at step 6, and its exported model, under former names, into `out`."""
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    trainer = Trainer(config, make_setup(config), torch.device("cpu"))
    weights, moments = get_state_dict(trainer.model, trainer.optimizer)
    state = {"model": weights, "optimizer": moments, "average": trainer.average.values}
    there = Path(out, "checkpoints", "step-00000006")
    shutil.copytree(f"{config.out}/checkpoints/step-00000006", there)
    for file in there.iterdir():
        if file.name != "state.json":
            file.unlink()
    renamed = _former(state)
    assert isinstance(renamed, dict) and any("lat_in" in name for name in renamed["model"])
    save(renamed, checkpoint_id=there)
    facts = json.loads((there / "state.json").read_text())
    # Lost samples were not counted then.
    for later in ("documents", "lost", "data_from"):
        del facts[later]
    (there / "state.json").write_text(json.dumps(facts))
    assert set(facts) == {"format", "step", "config", "stream", "data"}
    assert set(facts["stream"]) == STREAM_FACTS
    shutil.copy(f"{config.out}/tokenizer.json", out)


def test_a_former_model_draws_and_describes_as_it_did(world: World, tmp_path: Path) -> None:
    for paradigm in ("flow-semantic", "query"):
        config = world.config(tmp_path / paradigm, paradigm, steps=2)
        train(config, TrainLog(config.out, quiet=True))
        facts = json.loads(Path(config.out, "model.json").read_text())
        assert set(facts) == MODEL_FACTS and set(facts["layout"]) == LAYOUT_FACTS
        now = load(config.out)
        path = os.path.join(config.out, checkpoint.WEIGHTS_FILE)
        former = _former(load_file(path))
        assert isinstance(former, dict) and "und_proj.0.weight" in former
        save_file(former, path)
        then = load(config.out)
        few = Sampling(steps=2, longest=4)
        assert np.array_equal(then.generate("a star", few), now.generate("a star", few))
        pictures = [draw(make_scene(1), 50)]
        assert then.describe(pictures, few) == now.describe(pictures, few)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_former_training_goes_on_with_the_same_numbers(world: World, tmp_path: Path) -> None:
    for paradigm, optimiser in (("flow-semantic", "muon"), ("query", "adamw")):
        whole = world.config(tmp_path / paradigm, paradigm, optimiser=optimiser)
        half = dataclasses.replace(whole, out=whole.out + "-half", steps=6)
        train(whole, TrainLog(whole.out, quiet=True))
        shutil.copytree(whole.out, half.out)
        shutil.rmtree(f"{half.out}/checkpoints/step-00000012")
        former = dataclasses.replace(whole, out=whole.out + "-former")
        _write_former_checkpoint(half, former.out)
        train(former, TrainLog(former.out, quiet=True))
        rest = [(line["loss"], line["grad_norm"]) for line in read_log(whole.out)[6:]]
        assert [(line["loss"], line["grad_norm"]) for line in read_log(former.out)] == rest
