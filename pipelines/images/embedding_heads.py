"""Small networks on stored embeddings: aesthetics, safety, watermarks, by weights of your own."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Needs, Score, require_choice, setting

_LAYER = re.compile(r"(?:^|\.)(\d+)\.weight$")


@dataclass(frozen=True, kw_only=True)
class EmbeddingHeads(Score):
    """One column for each head: `{"aesthetic": "sac+logos+ava1-l14-linearMSE.pth"}`.

    A head is a safetensors file or a PyTorch state dict (loaded as tensors alone) of linear layers
    in a row: LAION's aesthetic predictors (Schuhmann 2022), CLIP-based safety and watermark heads,
    or what `gristmill train-head` writes. Embeddings are brought to unit length first, as those
    heads want. They must be of the encoder that the head was trained on; only the width can be
    checked.
    """

    # Column -> file.
    heads: Mapping[str, str] = field(default_factory=dict)
    # Column of embeddings that the heads read.
    embedding: str = "image_embedding"
    # Between layers: none is LAION's second predictor; a file of ours says its own.
    activation: str = setting("none", choices=("none", "relu", "gelu"))

    def reads(self) -> tuple[str, ...]:
        """The embedding."""
        return (self.embedding,)

    def writes(self) -> pa.Schema:
        """A float for each head."""
        return pa.schema([pa.field(name, pa.float32()) for name in self.heads])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        known = {
            name: ColumnFacts(f"What the head {path} says of the embedding, on its own scale.")
            for name, path in self.heads.items()
        }
        return known or {"NAME": ColumnFacts("What a head says.", only_with="heads={NAME: FILE}")}

    def needs(self) -> Needs:
        """Very little."""
        return Needs(memory_gb=0.5)

    def files(self) -> tuple[str, ...]:
        """The weights."""
        return tuple(self.heads.values())

    def check(self) -> None:
        """Raise `MissingWeightsError` for files that are not there or hold something else."""
        require_choice(self, "activation")
        for path in self.heads.values():
            load_head(path, self.activation)

    def is_disabled(self) -> bool:
        """No heads."""
        return not self.heads

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Each head on each embedding."""
        column = table[self.embedding].combine_chunks()
        width = column.type.list_size
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        rows = np.asarray(values, np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        columns = []
        for path in self.heads.values():
            head = load_head(path, self.activation)
            if head.width != width:
                raise ConfigurationError(
                    f"{path} reads embeddings of {head.width} values, {self.embedding} has "
                    f"{width}: use the encoder that the head was trained on"
                )
            columns.append(head(rows).round(5).astype(np.float32))
        return pa.table(columns, schema=self.writes())


@dataclass(frozen=True)
class Head:
    """Linear layers in a row, in float64."""

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    activation: str
    # "identity", or "sigmoid" for a probability.
    output: str

    @property
    def width(self) -> int:
        """Values of an embedding."""
        return int(self.layers[0][0].shape[1])

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, width] -> [n]."""
        for number, (weight, bias) in enumerate(self.layers):
            rows = rows @ weight.T + bias
            if number + 1 < len(self.layers):
                rows = _ACTIVATIONS[self.activation](rows)
        out = rows[:, 0]
        if self.output == "sigmoid":
            out = 1 / (1 + np.exp(-np.clip(out, -60, 60)))
        return np.asarray(out)


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import erf

    return np.asarray(x * (1 + erf(x / np.sqrt(2))) / 2)


_ACTIVATIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
}


@functools.lru_cache(maxsize=16)
def load_head(path: str, activation: str = "none") -> Head:
    """The head in a file. Raises `MissingWeightsError` with the remedy."""
    if not os.path.exists(path):
        raise MissingWeightsError(f"{path} does not exist; give the file of a head's weights")
    if path.endswith(".safetensors"):
        tensors, says = _safetensors(path)
    else:
        tensors, says = _state_dict(path), {}
    layers = _layers(tensors, path)
    return Head(layers, says.get("activation", activation), says.get("output", "identity"))


def _safetensors(path: str) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise MissingWeightsError(f"{path} is no safetensors file: {error}") from error


def _state_dict(path: str) -> dict[str, NDArray[np.generic]]:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise MissingWeightsError(
            f"{path} cannot be loaded as tensors alone; save its state dict, or as safetensors "
            f"({str(error).splitlines()[0]})"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        raise MissingWeightsError(f"{path} holds a {type(found).__name__}, not a state dict")
    return {name: value.float().numpy() for name, value in found.items() if hasattr(value, "numpy")}


def _layers(
    tensors: Mapping[str, NDArray[np.generic]], path: str
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
    """Layers in the order of their numbers, checked to fit one another and to end in one value."""
    names = [name for name, value in tensors.items() if name.endswith("weight") and value.ndim == 2]

    def number(name: str) -> int:
        match = _LAYER.search(name)
        return int(match.group(1)) if match else -1

    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for name in sorted(names, key=number):
        weight = np.asarray(tensors[name], np.float64)
        bias = tensors.get(name.removesuffix("weight") + "bias")
        layers.append(
            (weight, np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64))
        )
    widths = [weight.shape for weight, _ in layers]
    fits = all(a[0] == b[1] for a, b in itertools.pairwise(widths))
    if not layers or not fits or widths[-1][0] != 1:
        raise MissingWeightsError(
            f"{path} is no row of linear layers that ends in one value; its matrices are "
            f"{ {name: tensors[name].shape for name in names} or 'none' }"
        )
    return tuple(layers)


def save_head(
    path: str,
    weight: NDArray[np.float64],
    bias: float,
    output: str,
    facts: Mapping[str, object],
) -> None:
    """Write a head of one layer; `facts` are kept beside it."""
    from safetensors.numpy import save_file

    tensors = {
        "0.weight": np.ascontiguousarray(weight[None], np.float32),
        "0.bias": np.array([bias], np.float32),
    }
    save_file(tensors, path, {"activation": "none", "output": output, "facts": json.dumps(facts)})
