"""Names of the weights of vision transformers, as libraries write them, and ours for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

# Ours -> theirs; `{}` is the number of a layer.
_OPEN_CLIP = {
    "pre_norm": "ln_pre", "norm": "ln_post",
    "layers.{}.norm1": "transformer.resblocks.{}.ln_1",
    "layers.{}.norm2": "transformer.resblocks.{}.ln_2",
    "layers.{}.out": "transformer.resblocks.{}.attn.out_proj",
    "layers.{}.up": "transformer.resblocks.{}.mlp.c_fc",
    "layers.{}.down": "transformer.resblocks.{}.mlp.c_proj",
}  # fmt: skip
_TIMM = {
    "pre_norm": "norm_pre", "norm": "norm",
    "layers.{}.norm1": "blocks.{}.norm1",
    "layers.{}.norm2": "blocks.{}.norm2",
    "layers.{}.qkv": "blocks.{}.attn.qkv",
    "layers.{}.out": "blocks.{}.attn.proj",
    "layers.{}.up": "blocks.{}.mlp.fc1",
    "layers.{}.down": "blocks.{}.mlp.fc2",
}  # fmt: skip
_TRANSFORMERS = {
    # The published spelling.
    "pre_norm": "pre_layrnorm", "norm": "post_layernorm",
    "layers.{}.norm1": "encoder.layers.{}.layer_norm1",
    "layers.{}.norm2": "encoder.layers.{}.layer_norm2",
    "layers.{}.out": "encoder.layers.{}.self_attn.out_proj",
    "layers.{}.up": "encoder.layers.{}.mlp.fc1",
    "layers.{}.down": "encoder.layers.{}.mlp.fc2",
}  # fmt: skip


def _renamed(weights: Weights, names: Mapping[str, str], layers: int) -> dict[str, Tensor]:
    """Weights and biases of the modules of a table, those that are there."""
    found = {}
    for ours, theirs in names.items():
        for number in range(layers) if "{}" in ours else (0,):
            for kind in ("weight", "bias"):
                value = weights.get(f"{theirs.format(number)}.{kind}")
                if value is not None:
                    found[f"{ours.format(number)}.{kind}"] = value
    return found


def _count(weights: Weights, pattern: str) -> int:
    """How many layers there are."""
    matches = (re.match(pattern, name) for name in weights)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _patch(weight: Tensor) -> Tensor:
    """Of a convolution [width, 3, p, p], or of rows that are [row, column, channel] already."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight


def _table(table: Tensor) -> Tensor:
    """Positions [n, width] as the square that they are."""
    side = round(len(table) ** 0.5)
    return table.view(side, side, -1)


def from_open_clip(weights: Weights) -> dict[str, Tensor]:
    """Of `open_clip.transformer.VisionTransformer`."""
    layers = _count(weights, r"transformer\.resblocks\.(\d+)\.")
    found = _renamed(weights, _OPEN_CLIP, layers)
    for number in range(layers):
        theirs = f"transformer.resblocks.{number}"
        found[f"layers.{number}.qkv.weight"] = weights[f"{theirs}.attn.in_proj_weight"]
        found[f"layers.{number}.qkv.bias"] = weights[f"{theirs}.attn.in_proj_bias"]
        for half in "12":
            if f"{theirs}.ls_{half}.gamma" in weights:
                found[f"layers.{number}.scale{half}"] = weights[f"{theirs}.ls_{half}.gamma"]
    table = weights["positional_embedding"]
    found["patch_in.weight"] = _patch(weights["conv1.weight"])
    # A class token's position is added to it once and for all.
    found["class_token"] = weights["class_embedding"] + table[0]
    found["positions"] = _table(table[1:])
    return found


def from_timm(weights: Weights) -> dict[str, Tensor]:
    """Of `timm.models.vision_transformer.VisionTransformer`."""
    layers = _count(weights, r"blocks\.(\d+)\.")
    found = _renamed(weights, _TIMM, layers)
    for number in range(layers):
        for half in "12":
            if f"blocks.{number}.ls{half}.gamma" in weights:
                found[f"layers.{number}.scale{half}"] = weights[f"blocks.{number}.ls{half}.gamma"]
    found["patch_in.weight"] = _patch(weights["patch_embed.proj.weight"])
    if "patch_embed.proj.bias" in weights:
        found["patch_in.bias"] = weights["patch_embed.proj.bias"]
    table = weights["pos_embed"][0]
    if "cls_token" in weights:
        found["class_token"] = weights["cls_token"][0, 0] + table[0]
        table = table[1:]
    found["positions"] = _table(table)
    return found


def from_transformers(weights: Weights) -> dict[str, Tensor]:
    """Of `SiglipVisionModel`, `Siglip2VisionModel` and `CLIPVisionModel`, or of a whole model of
    theirs, text tower and all."""
    mark = "embeddings.patch_embedding.weight"
    (start,) = (name.removesuffix(mark) for name in weights if name.endswith(mark))
    weights = {
        name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)
    }
    layers = _count(weights, r"encoder\.layers\.(\d+)\.")
    found = _renamed(weights, _TRANSFORMERS, layers)
    for number in range(layers):
        for kind in ("weight", "bias"):
            theirs = f"encoder.layers.{number}.self_attn.{{}}_proj.{kind}"
            parts = [weights[theirs.format(part)] for part in "qkv"]
            found[f"layers.{number}.qkv.{kind}"] = torch.cat(parts)
    found["patch_in.weight"] = _patch(weights[mark])
    if "embeddings.patch_embedding.bias" in weights:
        found["patch_in.bias"] = weights["embeddings.patch_embedding.bias"]
    table = weights["embeddings.position_embedding.weight"]
    if "embeddings.class_embedding" in weights:
        found["class_token"] = weights["embeddings.class_embedding"] + table[0]
        table = table[1:]
    found["positions"] = _table(table)
    return found
