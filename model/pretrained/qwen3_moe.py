"""Qwen3-MoE: learned experts in every layer (Yang et al. 2025)."""

from __future__ import annotations

from typing import Any

from gristmill.errors import ConfigurationError
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.pretrained.decoder import (
    Values,
    decoder_config,
    decoder_names,
    decoder_values,
)
from gristmill.model.pretrained.family import Family


def _config(values: Values) -> ModelConfig:
    sparse = int(values.get("decoder_sparse_step", 1)) == 1 and not values.get("mlp_only_layers")
    if not sparse or values.get("shared_expert_intermediate_size"):
        raise ConfigurationError(
            "some of its layers have no learned experts, or shared ones beside them; ours have "
            "learned experts alone, in every layer"
        )
    biased = bool(values.get("attention_bias", False))
    return decoder_config(
        values, experts="moe", qk_norm=True, qkv_bias=biased, out_bias=biased,
        moe_experts=int(values.get("num_experts") or values["num_local_experts"]),
        moe_top_k=int(values["num_experts_per_tok"]),
        moe_feed_forward=int(values["moe_intermediate_size"]),
        moe_normalised=bool(values.get("norm_topk_prob", False)),
    )  # fmt: skip


def _can_hold(config: ModelConfig) -> bool:
    return config.experts == "moe" and config.qk_norm and config.qkv_bias == config.out_bias


def _values(config: ModelConfig, rows: int) -> dict[str, Any]:
    return decoder_values(config, rows) | {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": config.qkv_bias, "use_sliding_window": False,
        "num_experts": config.moe_experts, "num_experts_per_tok": config.moe_top_k,
        "moe_intermediate_size": config.expert_width, "norm_topk_prob": config.moe_normalised,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip


FAMILY = Family(
    model_types=("qwen3_moe",), gguf=("qwen3moe",),
    config=_config, names=decoder_names, can_hold=_can_hold, values=_values,
)  # fmt: skip
