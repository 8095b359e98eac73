"""Training on a Ray cluster, by Ray Train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import ray

from gristmill.dags.engine.on_ray import RayRunner
from gristmill.errors import ConfigurationError, WorkerError

if TYPE_CHECKING:
    from gristmill.model.training.train_config import TrainConfig


def train_on_ray(config: TrainConfig, *, address: str, ranks: int) -> None:
    """Train on a cluster with Ray Train: `ranks` processes, each with a GPU if the cluster has any.

    `config` is a `TrainConfig`; its `out` must be a folder that every node reaches. Raises
    `ConfigurationError` for more ranks than the cluster has places, `WorkerError` for what ends it.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with RayRunner(None if address == "local" else address):
        gpus = _on_gpus(ranks, ray.cluster_resources())
        trainer = TorchTrainer(
            _train_rank,
            train_loop_config=config.to_dict(),
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpus),
            run_config=RunConfig(storage_path=os.path.abspath(config.out), name="ray-train"),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise WorkerError(f"training on Ray failed: {error}") from error


def _on_gpus(ranks: int, there: Mapping[str, float]) -> bool:
    """Whether ranks have GPUs, of which each needs one. For what is not there Ray would wait."""
    kind = "GPU" if there.get("GPU", 0) else "CPU"
    places = int(there.get(kind, 0))
    if ranks > places:
        raise ConfigurationError(
            f"--ranks {ranks} are more than the {places} {kind}s of the cluster: give fewer, or "
            "start again when all its nodes are there (`ray status`)"
        )
    return kind == "GPU"


def _train_rank(values: dict[str, object]) -> None:
    """One rank; Ray Train has made the process group."""
    from gristmill.model.training.train import train
    from gristmill.model.training.train_config import TrainConfig

    train(TrainConfig.from_dict(values))
