"""The text path of a checkpoint of ours, written as `transformers` loads it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.checkpoints.model_folder import read_model_facts
from gristmill.model.checkpoints.tensor_files import (
    SHARD_BYTES,
    SafetensorsFiles,
    TensorSource,
    write_tensors,
)
from gristmill.model.documents.vocabulary import SPECIALS, Vocabulary
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.transformer import Transformer
from gristmill.model.pretrained.families import family_for
from gristmill.model.pretrained.last_weights import LastWeights
from gristmill.model.pretrained.names import Parts, taken_apart
from gristmill.pipelines.out_folder import require_own, require_writable

WEIGHTS = ("average", "last")
_TABLES = ("embed.weight", "lm.weight")


def export_model(
    folder: str, out: str, *, weights: str = "average", shard_bytes: int = SHARD_BYTES
) -> str:
    """Write config.json, safetensors, tokenizer and chat template; returns what was written, for a
    person. Ends for pictures and their ids stay behind.

    Raises `ConfigurationError` for a model that no family of `transformers` can hold.
    """
    require_known("weights", weights, WEIGHTS)
    facts = read_model_facts(folder)
    config = ModelConfig.from_facts(facts["model"])
    vocabulary = Vocabulary.from_facts(facts["vocabulary"])
    if config.experts == "mot":
        raise ConfigurationError(
            "its blocks have two experts each (mot), which no family of transformers has; dense "
            "and moe models can be written"
        )
    family = family_for(config)
    require_own(out, what="exported model", marks=("config.json",), beside=())
    require_writable(out, what="exported model")
    rows = _rows(vocabulary)
    table = family.names(config)
    with _open_weights(folder, weights) as source:
        dtype = source.read("norm.weight").dtype
        with torch.device("meta"):
            shapes = {
                name: (tuple(piece.shape), dtype)
                for name, piece in _pieces(_Shapes(config), table, rows)
            }
        pieces = ((name, piece.to(dtype)) for name, piece in _pieces(source, table, rows))
        write_tensors(out, shapes, pieces, shard_bytes=shard_bytes)
        left = sorted(set(source.names()) - set(table))
    values = family.values(config, len(rows)) | _marks(vocabulary)
    values["dtype"] = values["torch_dtype"] = str(dtype).removeprefix("torch.")
    _write_text(out, vocabulary)
    _write(out, "generation_config.json", _marks(vocabulary))
    _write(out, "config.json", values)
    more = ", ..." if len(left) > 3 else ""
    kept = f"; what knows of pictures stays behind: {', '.join(left[:3])}{more}" if left else ""
    return f"{values['architectures'][0]}, {len(rows):,} rows, {weights} weights{kept}"


def _rows(vocabulary: Vocabulary) -> Tensor:
    """Ids of ours in the order of theirs: the text, and of a model from zero its marks behind."""
    text = torch.arange(vocabulary.text_start, vocabulary.text_start + vocabulary.text_rows)
    if vocabulary.pretrained is not None:
        return text
    return torch.cat([text, torch.arange(len(SPECIALS))])


def _theirs(vocabulary: Vocabulary, mark: int) -> int:
    """An id of theirs of a mark of ours."""
    if mark >= vocabulary.text_start:
        return mark - vocabulary.text_start
    return vocabulary.text_rows + mark


def _marks(vocabulary: Vocabulary) -> dict[str, Any]:
    ends = [_theirs(vocabulary, end) for end in vocabulary.ends]
    return {
        "bos_token_id": _theirs(vocabulary, vocabulary.bos),
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
    }


class _Shapes:
    """The model's parameters without numbers."""

    def __init__(self, config: ModelConfig) -> None:
        self._parameters = dict(Transformer(config).named_parameters())

    def names(self) -> list[str]:
        return list(self._parameters)

    def read(self, name: str) -> Tensor:
        return self._parameters[name].detach()


def _pieces(
    source: TensorSource, table: Mapping[str, Parts], rows: Tensor
) -> Iterator[tuple[str, Tensor]]:
    for name, parts in table.items():
        value = source.read(name)
        if name in _TABLES:
            value = value[rows.to(value.device)]
        yield from taken_apart(parts, value)


@contextlib.contextmanager
def _open_weights(folder: str, weights: str) -> Iterator[TensorSource]:
    if weights == "average":
        with SafetensorsFiles.open(folder) as files:
            yield files
        return
    yield LastWeights(folder)


def _write_text(out: str, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken, Tokenizer

    named = dict(vocabulary.named_tokens)
    if vocabulary.pretrained is None:
        tokenizer = Tokenizer.from_str(vocabulary.tokenizer_file)
        tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIALS])
        text = str(tokenizer.to_str())
        named |= {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    else:
        text = vocabulary.tokenizer_file
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as file:
        file.write(text)
    if vocabulary.chat_template:
        with open(os.path.join(out, "chat_template.jinja"), "w", encoding="utf-8") as file:
            file.write(vocabulary.chat_template)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _write(out, "tokenizer_config.json", kind | named)


def _write(out: str, name: str, values: Mapping[str, object]) -> None:
    with open(os.path.join(out, name), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1, ensure_ascii=False)
