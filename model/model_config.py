"""What fixes the shape of a model."""

from __future__ import annotations

from dataclasses import dataclass

from gristmill.errors import ConfigurationError
from gristmill.model.choices import require_known

EXPERTS = ("dense", "mot", "moe")
FLOW_HEADS = ("none", "linear", "query")


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
    # Channels of latents and of semantic patches; 0: none.
    latent_channels: int = 0
    semantic_width: int = 0
    # Where velocities come from: a linear map of positions, or a small DiT on query outputs.
    flow_head: str = "none"
    flow_head_width: int = 0
    flow_head_layers: int = 0
    # Bases of rotary frequencies over time, and over the rows and columns of a picture, which are
    # far fewer than positions of text.
    rope_base: float = 10000.0
    rope_side_base: float = 100.0
    # Recompute each block in the backward pass.
    checkpointing: bool = False

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be built."""
        require_known("experts", self.experts, EXPERTS)
        require_known("flow head", self.flow_head, FLOW_HEADS)
        if self.heads % self.kv_heads:
            raise ConfigurationError(f"{self.heads} heads cannot share {self.kv_heads} keys")
        if self.head_dim % 2 or self.head_dim < 6:
            raise ConfigurationError(f"a head of {self.head_dim}; rotary axes need an even >= 6")
        if self.experts == "moe" and not 1 <= self.moe_top_k <= self.moe_experts:
            raise ConfigurationError(f"top {self.moe_top_k} of {self.moe_experts} experts")
        if self.flow_head != "none" and self.latent_channels < 1:
            raise ConfigurationError("a flow head needs latent_channels; give an image codec")

    @property
    def expert_width(self) -> int:
        """Feed-forward width of one learned expert."""
        return self.moe_feed_forward or max(16, self.feed_forward // self.moe_top_k)
