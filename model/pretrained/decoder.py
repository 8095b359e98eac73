"""What the decoders of Llama's kind have in common: their configuration and their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.rotary import NO_SCALING, RopeScaling
from gristmill.model.pretrained.names import Parts, bare, of_one

Values = Mapping[str, Any]
"""A `config.json`."""

# As `transformers` calls them, and as we do.
_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}  # fmt: skip


# What `config.json` says of a model that never said how long its texts were.
_POSITIONS = 32768


def decoder_config(values: Values, **switches: Any) -> ModelConfig:
    """The model of a `config.json`; its vocabulary is the rows of its table.

    Raises `ConfigurationError` for what our blocks do not do.
    """
    _refuse_others(values)
    heads = int(values["num_attention_heads"])
    head_dim = int(values.get("head_dim") or values["hidden_size"] // heads)
    base, scaling = rope(values)
    sections, interleaved = rope_sections(values)
    activation = str(values.get("hidden_act", "silu"))
    require_known("activation of the model", activation, _ACTIVATIONS)
    return ModelConfig(
        vocabulary=int(values["vocab_size"]),
        width=int(values["hidden_size"]),
        layers=int(values["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(values.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        feed_forward=int(values["intermediate_size"]),
        tied=bool(values.get("tie_word_embeddings", False)),
        norm_epsilon=float(values.get("rms_norm_eps", 1e-6)),
        activation=_ACTIVATIONS[activation],
        rope_base=base,
        rope_scaling=scaling,
        rope_sections=sections,
        rope_interleaved=interleaved,
        positions=int(values.get("max_position_embeddings") or 0),
        **switches,
    )


def _refuse_others(values: Values) -> None:
    if values.get("quantization_config"):
        raise ConfigurationError("the weights are quantised; give the folder of the plain ones")
    longest = int(values.get("max_position_embeddings") or 0)
    layers = int(values["num_hidden_layers"])
    window = values.get("sliding_window")
    # Models of Qwen say whether theirs is used, and from which layer on.
    used = values.get("use_sliding_window", True) and values.get("max_window_layers", 0) < layers
    kinds = values.get("layer_types")
    if kinds is not None:
        unknown = set(kinds) - {"full_attention", "sliding_attention"}
        if unknown:
            raise ConfigurationError(f"layers with {sorted(unknown)[0]} are not known here")
        used = "sliding_attention" in kinds
    if window and used and int(window) < longest:
        raise ConfigurationError(
            f"its attention sees only the last {window:,} of {longest:,} positions (sliding_window)"
            ", ours sees all; choose a model without, or one whose window is its whole length"
        )


def rope(values: Values) -> tuple[float, RopeScaling]:
    """Base and stretching of the rotary frequencies, in the spelling of any year."""
    said: dict[str, Any] = dict(values.get("rope_scaling") or {})
    said |= values.get("rope_parameters") or {}
    base = float(said.get("rope_theta") or values.get("rope_theta") or 10000.0)
    kind = str(said.get("rope_type") or said.get("type") or "default")
    partial = float(said.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1)
    if partial != 1:
        raise ConfigurationError(f"only {partial:.0%} of its heads turn; ours turn whole")
    # "mrope" says only that there are sections.
    if kind in ("default", "mrope"):
        return base, NO_SCALING
    if kind not in ("linear", "llama3", "yarn"):
        raise ConfigurationError(
            f"rope scaling {kind!r} is not known here; there are linear, llama3 and yarn"
        )
    longest = int(values.get("max_position_embeddings") or 0)
    original = int(said.get("original_max_position_embeddings") or longest)
    factor = float(said.get("factor") or longest / original)
    if kind == "linear":
        return base, RopeScaling(kind=kind, factor=factor)
    if kind == "llama3":
        return base, RopeScaling(
            kind=kind, factor=factor, original_positions=original,
            low_frequency=float(said["low_freq_factor"]),
            high_frequency=float(said["high_freq_factor"]),
        )  # fmt: skip
    return base, RopeScaling(
        kind=kind, factor=factor, original_positions=original,
        beta_fast=float(said.get("beta_fast") or 32), beta_slow=float(said.get("beta_slow") or 1),
        truncate=bool(said.get("truncate", True)),
        attention_factor=_attention_factor(said, factor),
    )  # fmt: skip


def _attention_factor(said: Values, factor: float) -> float:
    if said.get("attention_factor") is not None:
        return float(said["attention_factor"])

    def scale(times: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * times * math.log(factor) + 1.0

    several, all_dims = said.get("mscale"), said.get("mscale_all_dim")
    if several and all_dims:
        return scale(float(several)) / scale(float(all_dims))
    return scale()


def rope_sections(values: Values) -> tuple[tuple[int, ...], bool]:
    """Pairs of time, row and column, and whether they are interleaved; for a model that has only
    read, thirds, which its text does not see."""
    said: dict[str, Any] = dict(values.get("rope_scaling") or {})
    said |= values.get("rope_parameters") or {}
    sections = tuple(int(count) for count in said.get("mrope_section") or ())
    return sections, bool(said.get("mrope_interleaved", False)) if sections else True


def decoder_names(config: ModelConfig, prefix: str = "model.") -> dict[str, Parts]:
    """The names of a decoder of Llama's kind; `prefix` stands before all but the output table."""
    table = {
        "embed.weight": bare(f"{prefix}embed_tokens.weight"),
        "norm.weight": bare(f"{prefix}norm.weight"),
    }
    if not config.tied:
        table["lm.weight"] = bare("lm_head.weight")
    for layer in range(config.layers):
        theirs = f"{prefix}layers.{layer}."
        found = _attention(config, f"{theirs}self_attn.")
        found["attention_norm.weight"] = of_one(f"{theirs}input_layernorm.weight")
        found["forward_norm.weight"] = of_one(f"{theirs}post_attention_layernorm.weight")
        learned = config.experts == "moe"
        found |= (_learned if learned else _feed_forward)(config, f"{theirs}mlp.")
        table |= {f"blocks.{layer}.{name}": parts for name, parts in found.items()}
    return table


def _attention(config: ModelConfig, theirs: str) -> dict[str, Parts]:
    sizes = (config.heads, config.kv_heads, config.kv_heads)
    rows = tuple(count * config.head_dim for count in sizes)
    found = {
        "attention.qkv.weight": of_one(*(f"{theirs}{x}_proj.weight" for x in "qkv"), rows=rows),
        "attention.out.weight": of_one(f"{theirs}o_proj.weight"),
    }
    if config.qkv_bias:
        found["attention.qkv.bias"] = of_one(*(f"{theirs}{x}_proj.bias" for x in "qkv"), rows=rows)
    if config.out_bias:
        found["attention.out.bias"] = of_one(f"{theirs}o_proj.bias")
    if config.qk_norm:
        found["attention.q_norm.weight"] = of_one(f"{theirs}q_norm.weight")
        found["attention.k_norm.weight"] = of_one(f"{theirs}k_norm.weight")
    return found


def _feed_forward(config: ModelConfig, theirs: str) -> dict[str, Parts]:
    rows = (config.feed_forward, config.feed_forward)
    found = {}
    for kind in ("weight", "bias") if config.feed_forward_bias else ("weight",):
        gates = (f"{theirs}gate_proj.{kind}", f"{theirs}up_proj.{kind}")
        found[f"feed_forward.up.{kind}"] = of_one(*gates, rows=rows)
        found[f"feed_forward.down.{kind}"] = of_one(f"{theirs}down_proj.{kind}")
    return found


def _learned(config: ModelConfig, theirs: str) -> dict[str, Parts]:
    experts = [f"{theirs}experts.{number}." for number in range(config.moe_experts)]
    gates = tuple((f"{one}gate_proj.weight", f"{one}up_proj.weight") for one in experts)
    downs = tuple((f"{one}down_proj.weight",) for one in experts)
    rows = (config.expert_width, config.expert_width)
    return {
        "feed_forward.router.weight": bare(f"{theirs}gate.weight"),
        "feed_forward.up.weight": Parts(gates, rows, stacked=f"{theirs}experts.gate_up_proj"),
        "feed_forward.down.weight": Parts(downs, stacked=f"{theirs}experts.down_proj"),
    }


def decoder_values(config: ModelConfig, rows: int) -> dict[str, Any]:
    """The `config.json` of a model of ours, of a vocabulary of `rows`: the way back."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    scaling = config.rope_scaling
    if scaling.kind != "none":
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = scaling.original_positions
    if scaling.kind == "llama3":
        rope["low_freq_factor"] = scaling.low_frequency
        rope["high_freq_factor"] = scaling.high_frequency
    if scaling.kind == "yarn":
        rope |= {
            "beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate, "attention_factor": scaling.attention_factor,
        }  # fmt: skip
    theirs = {ours: name for name, ours in reversed(_ACTIVATIONS.items())}
    return {
        "vocab_size": rows,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.feed_forward,
        "tie_word_embeddings": config.tied,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": theirs[config.activation],
        "max_position_embeddings": config.positions or _POSITIONS,
        "rope_parameters": rope,
        # As releases before 5 have it.
        "rope_theta": config.rope_base,
        **({"rope_scaling": rope} if scaling.kind != "none" else {}),
    }
