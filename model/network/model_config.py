"""What fixes the shape of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.network.rotary import NO_SCALING, RopeScaling, axis_of_pairs

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
EXPERTS = ("dense", "mot", "moe")
FLOW_HEADS = ("none", "linear", "query", "token")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a model. `configurations.py` has functions that give them."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    experts: str = "dense"
    # For "moe": how many experts, how many a token uses, width of each.
    moe_experts: int = 8
    moe_top_k: int = 2
    moe_feed_forward: int = 0
    # Whether the shares of the experts that a token uses sum to 1.
    moe_normalised: bool = True
    # What language models differ in: norms of queries and keys, biases of maps, one table for
    # embeddings and outputs, the norms' epsilon, the activation of gates.
    qk_norm: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    feed_forward_bias: bool = False
    tied: bool = False
    norm_epsilon: float = 1e-6
    activation: str = "silu"
    # Channels of latents and of semantic patches; 0: none.
    latent_channels: int = 0
    semantic_width: int = 0
    # The tower that makes features of pixels; None: features are given.
    vision: VisionConfig | None = None
    # Where velocities come from: a linear map of positions, or a small DiT on query outputs.
    flow_head: str = "none"
    flow_head_width: int = 0
    flow_head_layers: int = 0
    # Base of the rotary frequencies of all axes; pairs of a head that turn with time, row and
    # column (none given: thirds), in blocks or interleaved; stretched or not.
    rope_base: float = 10000.0
    rope_sections: tuple[int, ...] = ()
    rope_interleaved: bool = True
    rope_scaling: RopeScaling = NO_SCALING
    # Longest text that a pretrained model knows; 0: nobody said.
    positions: int = 0
    # Recompute each block in the backward pass.
    checkpointing: bool = False

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be built."""
        require_known("experts", self.experts, EXPERTS)
        require_known("activation", self.activation, ACTIVATIONS)
        require_known("flow head", self.flow_head, FLOW_HEADS)
        if self.heads % self.kv_heads:
            raise ConfigurationError(f"{self.heads} heads cannot share {self.kv_heads} keys")
        if self.head_dim % 2 or self.head_dim < 6:
            raise ConfigurationError(f"a head of {self.head_dim}; rotary axes need an even >= 6")
        self._check_rope()
        if self.experts == "moe" and self.feed_forward_bias:
            raise ConfigurationError(
                "learned experts have no biases; feed_forward_bias is for others"
            )
        if self.experts == "moe" and not 1 <= self.moe_top_k <= self.moe_experts:
            raise ConfigurationError(f"top {self.moe_top_k} of {self.moe_experts} experts")
        if self.flow_head != "none" and self.latent_channels < 1:
            raise ConfigurationError("a flow head needs latent_channels; give an image codec")

    def _check_rope(self) -> None:
        self.rope_scaling.check()
        pairs, sections = self.head_dim // 2, self.rope_sections
        if not sections:
            return
        counts = [axis_of_pairs(sections, self.rope_interleaved).count(axis) for axis in range(3)]
        if sum(sections) != pairs or counts != list(sections):
            raise ConfigurationError(
                f"rope_sections {sections}: give the pairs of time, row and column, {pairs} in "
                "all; interleaved, rows and columns have at most a third each"
            )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ModelConfig:
        """The configuration that `dataclasses.asdict` wrote to a JSON file."""
        fields = dict(facts)
        fields["rope_sections"] = tuple(fields["rope_sections"])
        fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        if fields["vision"] is not None:
            fields["vision"] = VisionConfig.from_facts(fields["vision"])
        return cls(**fields)

    @property
    def expert_width(self) -> int:
        """Feed-forward width of one learned expert."""
        return self.moe_feed_forward or max(16, self.feed_forward // self.moe_top_k)
