"""A training that begins with the weights of a finished or imported model (`train --init`)."""

from __future__ import annotations

import dataclasses
import os

import torch

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.carried_weights import CarriedWeights, shared_rows
from gristmill.model.checkpoints.checkpoint import CODEC_FILE
from gristmill.model.checkpoints.facts import ModelFacts
from gristmill.model.checkpoints.tensor_files import SafetensorsFiles
from gristmill.model.distributed.local_parts import local, local_slices
from gristmill.model.documents.vocabulary import Vocabulary
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.transformer import Transformer
from gristmill.model.training.training_setup import TrainingSetup


def codec_of(folder: str) -> str:
    """The codec that a model knows its pictures by; "" if there is no model, or it knows none."""
    path = os.path.join(folder, CODEC_FILE)
    return path if folder and os.path.exists(path) else ""


def config_of(begun: ModelFacts, experts: str) -> ModelConfig:
    """The shape of a model that begins with another: the same, with the experts that are asked for.

    Raises `ConfigurationError` for experts that cannot be made of those that there are.
    """
    config = ModelConfig.from_facts(begun["model"])
    require_experts(config.experts, experts)
    return dataclasses.replace(config, experts=experts)


def require_experts(before: str, wanted: str) -> None:
    """Raise `ConfigurationError` for experts that cannot be made of those that there are."""
    if wanted != before and (before, wanted) != ("dense", "mot"):
        raise ConfigurationError(
            f"the model of --init is {before}; mot can be made of dense, but not {wanted} of "
            f"{before}: give --experts {before}"
        )


@torch.no_grad()
def take_weights(model: Transformer, setup: TrainingSetup, folder: str, begun: ModelFacts) -> None:
    """Read the weights of `folder` into a model, or into this rank's part of it, one parameter at a
    time. What the folder lacks begins as `CarriedWeights` says.

    Raises `ConfigurationError` for weights that do not fit, `TrainingError` for broken files.
    """
    old = Vocabulary.from_facts(begun["vocabulary"])
    same_codes = begun["codec_digest"] == setup.codec.digest
    rows = shared_rows(old, setup.vocabulary, same_codes=same_codes)
    text = (old.text_start, old.text_start + old.text_size)
    before = ModelConfig.from_facts(begun["model"]).vision
    # Of the encoder that it saw through already, the other has what it has learnt since.
    same_tower = before is not None and before == setup.model_config.vision
    tower = None if same_tower else setup.encoder_weights
    with SafetensorsFiles.open(folder) as files:
        carried = CarriedWeights(setup.model_config, files, rows, text, tower)
        for name, place in model.state_dict().items():
            local(place).copy_(carried.read(name)[local_slices(place)])
