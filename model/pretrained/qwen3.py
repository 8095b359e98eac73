"""Qwen3: queries and keys are normed (Yang et al. 2025); models of ours from zero are alike."""

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
    # Its heads have a size of their own.
    values = {"head_dim": 128, **values}
    return decoder_config(values, qk_norm=True, qkv_bias=biased, out_bias=biased)


def _can_hold(config: ModelConfig) -> bool:
    biased_alike = config.qkv_bias == config.out_bias and not config.feed_forward_bias
    return config.experts != "moe" and config.qk_norm and biased_alike


def _values(config: ModelConfig, rows: int) -> dict[str, Any]:
    return decoder_values(config, rows) | {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": config.qkv_bias, "use_sliding_window": False,
    }  # fmt: skip


FAMILY = Family(
    model_types=("qwen3",), gguf=("qwen3",),
    config=_config, names=decoder_names, can_hold=_can_hold, values=_values,
)  # fmt: skip
