"""The families of pretrained models that are known, and which of them a `config.json` is of.

A family is a file here with a `FAMILY`: it knows its `config.json`, makes a `ModelConfig` of it,
and names its tensors. What is not a tensor of it is an error, so that nothing is left behind
without a word.
"""

from __future__ import annotations

from gristmill.errors import ConfigurationError
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.pretrained import llama, qwen2, qwen3, qwen3_moe
from gristmill.model.pretrained.decoder import Values
from gristmill.model.pretrained.family import Family

FAMILIES: tuple[Family, ...] = (
    llama.FAMILY, qwen2.FAMILY, qwen3.FAMILY, qwen3_moe.FAMILY,
)  # fmt: skip


def family_of(values: Values) -> Family:
    """The family of a `config.json`. Raises `ConfigurationError` for one that is not known."""
    kind = str(values.get("model_type", ""))
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = sorted(kind for family in FAMILIES for kind in family.model_types)
    raise ConfigurationError(f"model_type {kind!r} is not known here; there are {', '.join(known)}")


def family_for(config: ModelConfig) -> Family:
    """The family that a model of ours can be written as, by its switches. Raises
    `ConfigurationError` where there is none."""
    for family in FAMILIES:
        if family.can_hold(config):
            return family
    raise ConfigurationError(
        f"no family of `transformers` has its {config.experts} blocks: with qk_norm "
        f"{config.qk_norm}, qkv_bias {config.qkv_bias}, out_bias {config.out_bias}, "
        f"feed_forward_bias {config.feed_forward_bias}"
    )
