"""What a family of pretrained models is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.model.network.model_config import ModelConfig
from gristmill.model.pretrained.decoder import Values
from gristmill.model.pretrained.names import Parts


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of others that are alike but for their sizes."""

    # `model_type` of their `config.json`.
    model_types: tuple[str, ...]
    # `general.architecture` of their GGUF files.
    gguf: tuple[str, ...] = ()
    # Our configuration, its vocabulary the rows of their table. Raises `ConfigurationError`.
    config: Callable[[Values], ModelConfig]
    # Parameter of ours -> where it lies. Ours not named here are new.
    names: Callable[[ModelConfig], Mapping[str, Parts]]
    # Ends of tensors that are computed and not learnt.
    computed: tuple[str, ...] = ("rotary_emb.inv_freq",)
    # Whether a model of ours can be written as one of the family, and as which `config.json`.
    can_hold: Callable[[ModelConfig], bool]
    values: Callable[[ModelConfig, int], dict[str, Any]]
