"""Qwen2 and Qwen2.5: biases on queries, keys and values (Yang et al. 2024)."""

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
    return decoder_config(values, qk_norm=False, qkv_bias=True)


def _can_hold(config: ModelConfig) -> bool:
    plain = not (config.qk_norm or config.out_bias or config.feed_forward_bias)
    return config.experts != "moe" and plain and config.qkv_bias


def _values(config: ModelConfig, rows: int) -> dict[str, Any]:
    return decoder_values(config, rows) | {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
    }  # fmt: skip


FAMILY = Family(
    model_types=("qwen2",), gguf=("qwen2",),
    config=_config, names=decoder_names, can_hold=_can_hold, values=_values,
)  # fmt: skip
