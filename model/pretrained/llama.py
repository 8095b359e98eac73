"""Llama 2 and 3, SmolLM2, TinyLlama, Mistral: plain decoders (Touvron et al. 2023)."""

from __future__ import annotations

from typing import Any

from gristmill.model.network.model_config import ModelConfig
from gristmill.model.pretrained.decoder import (
    Values,
    decoder_config,
    decoder_names,
    decoder_values,
)
from gristmill.model.pretrained.family import Family


def _config(values: Values) -> ModelConfig:
    biased = bool(values.get("attention_bias", False))
    return decoder_config(
        values, qk_norm=False, qkv_bias=biased, out_bias=biased,
        feed_forward_bias=bool(values.get("mlp_bias", False)),
    )  # fmt: skip


def _can_hold(config: ModelConfig) -> bool:
    return (
        config.experts != "moe" and not config.qk_norm and config.qkv_bias == config.out_bias
    )  # fmt: skip


def _values(config: ModelConfig, rows: int) -> dict[str, Any]:
    return decoder_values(config, rows) | {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "attention_bias": config.qkv_bias, "mlp_bias": config.feed_forward_bias,
    }  # fmt: skip


FAMILY = Family(
    model_types=("llama", "mistral"), gguf=("llama",),
    config=_config, names=decoder_names, can_hold=_can_hold, values=_values,
)  # fmt: skip
