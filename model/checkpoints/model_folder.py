"""The files that a model is: model.json, its weights, and the codec of its pictures."""

from __future__ import annotations

import json
import os
from typing import cast

import torch
from torch import nn

from gristmill.errors import TrainingError
from gristmill.model.checkpoints import checkpoint
from gristmill.model.checkpoints.facts import ModelFacts
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.checkpoints.tensor_files import SafetensorsFiles
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.no_pictures import NoPictures
from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.documents.document_writer import DocumentLayout
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.documents.vocabulary import Vocabulary
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.transformer import Transformer


def read_model_facts(folder: str) -> ModelFacts:
    """model.json. Raises `TrainingError` for a folder without one, or with one of another
    format."""
    path = os.path.join(folder, checkpoint.MODEL_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            facts = cast(ModelFacts, json.load(file))
    except FileNotFoundError:
        trained = checkpoint.steps(os.path.join(folder, "checkpoints"))
        hint = (
            f"its training stopped at step {trained[-1]}: run the same command again"
            if trained
            else "give the --out of a finished gristmill train or of gristmill import-model"
        )
        raise TrainingError(f"no model in {folder}; {hint}") from None
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path} is broken: {error}") from error
    checkpoint.require_format(facts["format"], path)
    return facts


def open_bundle(folder: str, facts: ModelFacts) -> ModelBundle:
    """All but the weights."""
    codec = _codec(folder, facts["codec_digest"])
    paradigm = find_paradigm(facts["paradigm"])
    config = ModelConfig.from_facts(facts["model"])
    layout = DocumentLayout(**facts["layout"])  # type: ignore[arg-type]
    return ModelBundle(
        config,
        Vocabulary.from_facts(facts["vocabulary"]),
        paradigm,
        layout,
        codec,
        config.vision,
        ImageTokenizer(paradigm, codec, config.vision, layout.patches),
    )


def _codec(folder: str, digest: str) -> Codec:
    if not digest:
        return NoPictures()
    path = os.path.join(folder, checkpoint.CODEC_FILE)
    codec = load_codec(path)
    if codec.digest != digest:
        raise TrainingError(f"{path} is not the codec that the model was trained with")
    return codec


@torch.no_grad()
def load_weights(folder: str, config: ModelConfig, device: str) -> Transformer:
    """The model with its weights, which are read one after the other onto its device.

    Raises `TrainingError` for weights of another shape.
    """
    with torch.device("meta"):
        model = Transformer(config)
    # Buffers of a vision tower are stored beside parameters.
    expected = model.state_dict()
    with SafetensorsFiles.open(folder) as files:
        names = files.names()
        wrong = sorted(set(expected) ^ set(names))
        if wrong:
            there = "is not a weight of the model" if wrong[0] in names else "is missing"
            raise TrainingError(
                f"the weights in {folder} are of another shape: {wrong[0]} {there} "
                f"({len(wrong)} differ)"
            )
        for name, place in expected.items():
            value = files.read(name)
            if value.shape != place.shape:
                raise TrainingError(
                    f"the weights in {folder} are of another shape: {name} is "
                    f"{tuple(value.shape)}, the model wants {tuple(place.shape)}"
                )
            path, _, own = name.rpartition(".")
            module = model.get_submodule(path)
            if own in dict(module.named_parameters(recurse=False)):
                value = value.to(device, torch.float32)
                module.register_parameter(own, nn.Parameter(value))
            else:
                module.register_buffer(own, value.to(device, place.dtype))
    return model.to(device)
