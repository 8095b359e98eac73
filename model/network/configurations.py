"""Sizes and paradigms as functions. `print(describe(small(2048)))` says what a size comes to."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypedDict, Unpack

import torch

from gristmill.errors import require_known
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.rotary import RopeScaling
from gristmill.model.network.transformer import Transformer


class Changes(TypedDict, total=False):
    """Fields of `ModelConfig` that a size may be asked for otherwise."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    experts: str
    moe_experts: int
    moe_top_k: int
    moe_feed_forward: int
    moe_normalised: bool
    qk_norm: bool
    qkv_bias: bool
    out_bias: bool
    feed_forward_bias: bool
    tied: bool
    norm_epsilon: float
    activation: str
    latent_channels: int
    semantic_width: int
    flow_head: str
    flow_head_width: int
    flow_head_layers: int
    rope_base: float
    rope_sections: tuple[int, ...]
    rope_interleaved: bool
    rope_scaling: RopeScaling
    positions: int
    checkpointing: bool


class Size(Protocol):
    """A function that gives a model of one size for a vocabulary."""

    def __call__(self, vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig: ...


# A head of a few pairs has two or three to an axis: with the usual base only one of them would tell
# places of a small picture apart. Good for some hundred positions.
_FEW_POSITIONS: Changes = {"rope_base": 100.0}


def tiny(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 2M parameters and a small vocabulary: minutes on two CPU cores."""
    return _size(vocabulary, 160, 6, 5, 5, 32, 432, {**_FEW_POSITIONS, **changes})


def nano(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 0.1M parameters: seconds, to see whether all is connected."""
    return _size(vocabulary, 48, 2, 4, 2, 12, 96, {**_FEW_POSITIONS, **changes})


def micro(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 0.6M parameters: half a minute on two CPU cores, for what is simple."""
    return _size(vocabulary, 96, 4, 4, 2, 24, 256, {**_FEW_POSITIONS, **changes})


def small(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 150M parameters: hours on one GPU."""
    return _size(vocabulary, 768, 16, 12, 4, 64, 2304, changes)


def base(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 1B parameters: days on a node of GPUs."""
    return _size(vocabulary, 1792, 24, 14, 7, 128, 5120, {"checkpointing": True, **changes})


def large(vocabulary: int, **changes: Unpack[Changes]) -> ModelConfig:
    """About 7B parameters: weeks on a cluster."""
    return _size(vocabulary, 4096, 32, 32, 8, 128, 13312, {"checkpointing": True, **changes})


SIZES: dict[str, Size] = {
    "nano": nano, "micro": micro, "tiny": tiny, "small": small, "base": base, "large": large,
}  # fmt: skip


def _size(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    feed_forward: int,
    changes: Changes,
) -> ModelConfig:
    config = ModelConfig(
        vocabulary=vocabulary, width=width, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, feed_forward=feed_forward,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def find_size(name: str) -> Size:
    """The function of a size; raises `ConfigurationError` for an unknown one."""
    require_known("size", name, SIZES)
    return SIZES[name]


def for_paradigm(
    config: ModelConfig,
    paradigm: Paradigm,
    *,
    latent_channels: int,
    semantic_width: int = 0,
    vision: VisionConfig | None = None,
) -> ModelConfig:
    """A size with the ends that a paradigm needs."""
    sees = "semantic" in paradigm.image_inputs
    heads = {"flow": "linear", "query": "query", "next-latent": "token"}
    return dataclasses.replace(
        config,
        latent_channels=latent_channels if paradigm.latents else 0,
        semantic_width=(vision.width if vision else semantic_width) if sees else 0,
        vision=vision if sees else None,
        flow_head=heads.get(paradigm.image_objective, "none"),
    )


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """All parameters, and those that one token uses."""
    with torch.device("meta"):
        model = Transformer(config)
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    if config.experts == "mot":
        # One of two experts is at rest for any token.
        idle = sum(p.numel() // 2 for p in model.blocks.parameters())
    elif config.experts == "moe":
        inactive = config.moe_experts - config.moe_top_k
        idle = config.layers * inactive * 3 * config.width * config.expert_width
    return total, total - idle


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Floating point operations of one training step per position, at rows of `length`: 6 for
    each active parameter of a matrix, and 12 * layers * heads * head_dim * length / 2 for
    attention that is mostly causal (PaLM, appendix B)."""
    # Looking up an embedding takes none; a tied table is a matrix of logits as well.
    lookups = 0 if config.tied else config.vocabulary * config.width
    # A tower sees patches, of which not every token is one.
    language = dataclasses.replace(config, vision=None)
    active = count_parameters(language)[1] - lookups
    return 6.0 * active + 6.0 * config.layers * config.heads * config.head_dim * length


def describe(config: ModelConfig, length: int = 4096) -> str:
    """Parameters and operations, for a person."""
    total, active = count_parameters(config)
    flops = flops_per_token(config, length)
    experts = (
        config.experts if config.experts == "dense" else f"{config.experts}, {active:,} active"
    )
    return (
        f"{total:,} parameters ({experts}), {config.layers} layers of {config.width}, "
        f"{flops / 1e6:,.1f} MFLOP a token at rows of {length:,}"
    )
