"""Ray Train launches the same training as one process does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from model_world import make_world

from gristmill.dags.engine.on_ray import train_on_ray
from gristmill.errors import WorkerError
from gristmill.model.train import train
from gristmill.model.train_log import TrainLog, read_log


@pytest.mark.filterwarnings("ignore")
def test_two_workers_train_as_one(tmp_path: Path, ray_session: None) -> None:
    world = make_world(tmp_path)
    alone = world.config(tmp_path / "alone", steps=3, save_every=3)
    train(alone, TrainLog(alone.out, quiet=True))
    both = dataclasses.replace(alone, out=str(tmp_path / "both"))
    train_on_ray(both, address="local", ranks=2)
    curves = [[line["loss"] for line in read_log(config.out)] for config in (alone, both)]
    assert len(curves[1]) == 3 and np.allclose(*curves, rtol=1e-4)
    assert (tmp_path / "both" / "model.safetensors").exists()
    with pytest.raises(WorkerError, match="training on Ray failed"):
        train_on_ray(dataclasses.replace(both, rate=1.0), address="local", ranks=1)
