"""A small flow network a token: the next latent, from the output of the position before it (MAR,
Li et al. 2024; UniFluid, Fan et al. 2025)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gristmill.model.network.flow_head import FEATURES, at_least_single, time_features


class _Layer(nn.Module):
    """Feed-forward, shifted, scaled and gated by time and output (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulate = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """x, given: [N, width]."""
        shift, scale, gate = self.modulate(F.silu(given)).chunk(3, dim=-1)
        inner = F.silu(self.up(self.norm(x) * (1 + scale) + shift))
        out: Tensor = x + gate * self.down(inner)
        return out


class TokenFlowHead(nn.Module):
    """Velocities of latents, each by itself."""

    def __init__(self, *, in_features: int, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.condition = nn.Linear(in_features, width)
        self.latent_in = nn.Linear(channels, width)
        self.time_in = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.latent_out = nn.Linear(width, channels)

    def forward(
        self,
        hidden: Float[Tensor, "latents width"],
        noisy: Float[Tensor, "latents channels"],
        time: Float[Tensor, " latents"],
    ) -> Float[Tensor, "latents channels"]:
        """`hidden`: output of the position before each latent."""
        given = at_least_single(self.condition(hidden))
        x = at_least_single(self.latent_in(noisy)) + given
        given = given + self.time_in(time_features(time).to(noisy.dtype)).to(given.dtype)
        for layer in self.layers:
            x = layer(x, given)
        out: Tensor = self.latent_out(self.norm(x))
        return out
