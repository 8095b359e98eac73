"""Ray Train launches the same training as one process does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from model_world import World, make_world
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from gristmill.dags.engine.on_ray import train_on_ray
from gristmill.errors import WorkerError
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog, read_log


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.drill
@pytest.mark.filterwarnings("ignore")
def test_two_workers_train_as_one(world: World, tmp_path: Path, ray_session: None) -> None:
    alone = world.config(tmp_path / "alone", steps=3, save_every=3)
    train(alone, TrainLog(alone.out, quiet=True))
    both = dataclasses.replace(alone, out=str(tmp_path / "both"))
    train_on_ray(both, address="local", ranks=2)
    curves = [[line["loss"] for line in read_log(config.out)] for config in (alone, both)]
    assert len(curves[1]) == 3 and np.allclose(*curves, rtol=1e-4)
    assert (tmp_path / "both" / "model.safetensors").exists()


def test_what_ray_train_raises_is_one_error_of_ours(
    world: World, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: TorchTrainer) -> None:
        raise TrainingFailedError("a rank ended")

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    config = world.config(tmp_path / "out")
    with pytest.raises(WorkerError, match="training on Ray failed: a rank ended"):
        train_on_ray(config, address="local", ranks=1)
