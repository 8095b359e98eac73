"""Ray Train launches the same training as one process does."""

from __future__ import annotations

import dataclasses
import importlib.resources
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from model_world import World, make_world
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer
from typer.testing import CliRunner

from gristmill.cli import app
from gristmill.dags.engine.on_ray_train import _on_gpus, train_on_ray
from gristmill.errors import ConfigurationError, WorkerError
from gristmill.model.training import commands, settings
from gristmill.model.training.sharding import check_replicas
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


def test_more_ranks_than_places_are_refused_at_once(
    world: World, tmp_path: Path, ray_session: None
) -> None:
    config = world.config(tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"--ranks 9999 are more than the \d+ CPUs of the"):
        train_on_ray(config, address="local", ranks=9999)
    assert _on_gpus(8, {"GPU": 8.0, "CPU": 2.0}) and not _on_gpus(2, {"CPU": 2.0})
    with pytest.raises(ConfigurationError, match="the 4 GPUs of the cluster"):
        _on_gpus(8, {"GPU": 4.0, "CPU": 64.0})


def test_the_job_for_kubernetes_is_a_training_that_its_pods_have_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = importlib.resources.files("gristmill.dags").joinpath("cluster/kuberay-train.yaml")
    spec = yaml.safe_load(text.read_text())["spec"]
    heard: dict[str, Any] = {}
    monkeypatch.setattr(commands, "on_cluster", lambda *given: heard.setdefault("on", given))
    monkeypatch.setattr(settings, "train_config", lambda **given: heard.update(given))
    monkeypatch.setattr(settings, "with_codec", lambda _: _stop())
    words = shlex.split(spec["entrypoint"])
    assert words[0] == "gristmill"
    assert isinstance(CliRunner().invoke(app, words[1:]).exception, _StoppedError)
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    pod = group["template"]["spec"]
    gpus = int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert heard["on"] == ("auto", group["replicas"] * gpus)
    check_replicas(heard["replicate"], heard["on"][1])
    # What every rank writes into is mounted by all, the head too, which makes the codec.
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for one in (pod, head):
        mounts = {
            mount["mountPath"]: mount["name"] for mount in one["containers"][0]["volumeMounts"]
        }
        volumes = {volume["name"]: volume for volume in one["volumes"]}
        (place,) = (path for path in mounts if heard["out"].startswith(path + "/"))
        assert "persistentVolumeClaim" in volumes[mounts[place]]
        assert set(mounts.values()) <= set(volumes)


class _StoppedError(Exception):
    pass


def _stop() -> None:
    raise _StoppedError


def test_what_ray_train_raises_is_one_error_of_ours(
    world: World, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: TorchTrainer) -> None:
        raise TrainingFailedError("a rank ended")

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    config = world.config(tmp_path / "out")
    with pytest.raises(WorkerError, match="training on Ray failed: a rank ended"):
        train_on_ray(config, address="local", ranks=1)
