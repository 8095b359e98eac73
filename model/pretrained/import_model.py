"""A pretrained language model made into a checkpoint of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints import checkpoint
from gristmill.model.checkpoints.carried_weights import CarriedWeights, Rows
from gristmill.model.checkpoints.facts import ModelFacts
from gristmill.model.checkpoints.tensor_files import (
    SHARD_BYTES,
    SafetensorsFiles,
    TensorSource,
    write_tensors,
)
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.no_pictures import NoPictures
from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.documents.document_writer import DocumentLayout
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.documents.vocabulary import PretrainedText, Vocabulary
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.encoders.load import load_encoder
from gristmill.model.network.configurations import count_parameters, for_paradigm
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.pretrained.families import family_of
from gristmill.model.pretrained.family import Family
from gristmill.model.pretrained.gguf_file import GgufFile
from gristmill.model.pretrained.names import Assembled
from gristmill.model.pretrained.places import find_model, read_config
from gristmill.model.pretrained.text import read_text


@dataclass(frozen=True)
class Pretrained:
    """A model of others, opened."""

    family: Family
    values: Mapping[str, Any]
    text: str
    marks: PretrainedText
    tensors: TensorSource


@contextlib.contextmanager
def open_pretrained(where: str) -> Iterator[Pretrained]:
    """A folder with config.json, a GGUF file, or OWNER/NAME of the hub.

    Raises `ConfigurationError` for what is neither, or of no known family.
    """
    path = find_model(where)
    if os.path.isfile(path):
        file = GgufFile(path)
        yield Pretrained(file.family, file.values, *file.text(), file)
        return
    values = read_config(path)
    family = family_of(values)
    text, marks = read_text(path, values)
    with SafetensorsFiles.open(path) as files:
        yield Pretrained(family, values, text, marks, files)


def import_model(
    where: str,
    out: str,
    *,
    paradigm: str = "ar",
    experts: str = "",
    codec: str = "",
    encoder: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write a checkpoint that `gristmill.model.load` opens and `train --init` begins with; returns
    what it is, for a person. Without a `codec` it has no pictures yet.

    Raises `ConfigurationError` for a model that is not known or not whole, before anything is
    written.
    """
    checkpoint.require_training_folder(out)
    if os.path.exists(os.path.join(out, "checkpoints")):
        raise ConfigurationError(f"{out} is the folder of a training; give another --out")
    with open_pretrained(where) as found:
        config = found.family.config(found.values)
        source = Assembled(found.tensors, found.family.names(config))
        _refuse_leftovers(found.family, source)
        tower = load_encoder(encoder) if encoder else None
        config = _with_experts(config, experts)
        facts, target = _plan(found, config, paradigm, codec, tower.config if tower else None)
        vocabulary = Vocabulary.from_facts(facts["vocabulary"])
        carried = CarriedWeights(
            target, source, [Rows(vocabulary.text_start, 0, vocabulary.text_rows)],
            (0, vocabulary.text_size), tower.weights if target.vision and tower else None,
        )  # fmt: skip
        write_tensors(out, carried.shapes(), carried.all(), shard_bytes=shard_bytes)
    if codec:
        shutil.copyfile(codec, os.path.join(out, checkpoint.CODEC_FILE))
    facts["training"] = {"imported": where, "family": found.family.model_types[0]}
    checkpoint.write_json(os.path.join(out, checkpoint.MODEL_FILE), facts)
    return _said(target, vocabulary, found)


def _with_experts(config: ModelConfig, experts: str) -> ModelConfig:
    if experts in ("", config.experts):
        return config
    if config.experts != "dense" or experts != "mot":
        raise ConfigurationError(
            f"its blocks are {config.experts}; of dense ones mot can be made, {experts} of "
            f"{config.experts} ones cannot"
        )
    return dataclasses.replace(config, experts=experts)


def _refuse_leftovers(family: Family, source: Assembled) -> None:
    left = [name for name in source.unused() if not name.endswith(family.computed)]
    # Some files repeat a tied table.
    left = [name for name in left if name != "lm_head.weight"]
    if left:
        raise ConfigurationError(
            f"{len(left)} tensors are no part of the model as {family.model_types[0]} is known "
            f"here: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
        )


def _plan(
    found: Pretrained,
    config: ModelConfig,
    paradigm: str,
    codec_path: str,
    encoder: VisionConfig | None,
) -> tuple[ModelFacts, ModelConfig]:
    kind = find_paradigm(paradigm)
    codec: Codec = load_codec(codec_path) if codec_path else NoPictures()
    if not codec_path and paradigm != "ar":
        raise ConfigurationError(
            f"paradigm {paradigm} needs to know its pictures: give --codec, or leave it to "
            "gristmill train --init"
        )
    patches = codec.grid[0] * codec.grid[1] if codec_path else 256
    # Says what does not go together.
    ImageTokenizer(kind, codec, encoder, patches)
    layout = DocumentLayout(
        patches=patches, latent_channels=codec.channels,
        semantic_width=encoder.width if encoder else 0,
        semantic_patch=encoder.patch if encoder else 0,
    )  # fmt: skip
    queries = layout.queries(patches) if kind.image_objective == "query" else 0
    vocabulary = Vocabulary(found.text, codec.vocabularies, queries, found.marks)
    config = dataclasses.replace(config, vocabulary=vocabulary.size)
    config = for_paradigm(config, kind, latent_channels=codec.channels, vision=encoder)
    config.check()
    facts: ModelFacts = {
        "format": checkpoint.FORMAT,
        "step": 0,
        "model": asdict(config),
        "paradigm": kind.name,
        "layout": asdict(layout),
        "vocabulary": vocabulary.to_dict(),
        "codec_digest": codec.digest,
        "training": {},
    }
    return facts, config


def _said(config: ModelConfig, vocabulary: Vocabulary, found: Pretrained) -> str:
    total, _ = count_parameters(config)
    chats = "with" if vocabulary.chat_template else "without"
    return (
        f"{found.family.model_types[0]}, {total:,} parameters ({config.experts}), "
        f"{vocabulary.text_size:,} entries of text, {chats} a chat template"
    )
