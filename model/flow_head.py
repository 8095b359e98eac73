"""A small diffusion transformer on the outputs of learnable queries (MetaQueries, BLIP3-o)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_features(t: Tensor, count: int = 64) -> Tensor:
    """[N] in 0..1 -> [N, count] cosines and sines."""
    half = count // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = 1000 * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Layer(nn.Module):
    """Self-attention and feed-forward, shifted and scaled by the time (adaLN-zero, DiT)."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.heads = max(1, width // head_dim)
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulate = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        """x: [S, L, width]; time: [S, L, width]; mask: [S, 1, 1, L], True is seen."""
        spans, length, width = x.shape
        a, b, c, d, e, f = self.modulate(F.silu(time)).chunk(6, dim=-1)
        qkv = self.qkv(self.norm(x) * (1 + a) + b)
        q, k, v = qkv.view(spans, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + c * self.out(seen.transpose(1, 2).reshape(spans, length, width))
        inner = F.gelu(self.up(self.norm(x) * (1 + d) + e))
        out: Tensor = x + f * self.down(inner)
        return out


class FlowHead(nn.Module):
    """Queries of a span, then its noisy latents, through a few layers; velocities out."""

    def __init__(
        self, *, in_features: int, channels: int, width: int, layers: int, head_dim: int
    ) -> None:
        super().__init__()
        self.condition = nn.Linear(in_features, width)
        self.latent_in = nn.Linear(channels, width)
        self.time_in = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.place = nn.Embedding(4096, width)
        self.layers = nn.ModuleList(_Layer(width, head_dim) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.latent_out = nn.Linear(width, channels)

    def packed(
        self, hidden: Tensor, latent_idx: Tensor, noisy: Tensor, time: Tensor, doc: Tensor
    ) -> Tensor:
        """Velocities [N, C] of latents [N, C].

        `latent_idx`: the flat index of the query to which a latent is bound; latents of a span are
        contiguous and bound to queries in order, so where it falls a new span begins. `doc`: [N].
        """
        new = torch.ones_like(latent_idx, dtype=torch.bool)
        gap = latent_idx[1:] - latent_idx[:-1]
        # Consecutive queries are one apart; between spans lies at least one other position.
        new[1:] = (gap < 0) | (gap > 1) | (doc[1:] != doc[:-1])
        span = new.cumsum(0) - 1
        spans = int(span[-1]) + 1
        within = torch.arange(len(span), device=span.device) - new.nonzero()[:, 0][span]
        first_query = latent_idx[new]
        query = latent_idx - first_query[span]
        queries, latents = int(query.max()) + 1, int(within.max()) + 1
        size = queries + latents
        width = self.latent_in.out_features
        # What blocks add to is kept in float32, as in the transformer.
        bound = self.condition(hidden[latent_idx]).float()
        x = bound.new_zeros(spans, size, width)
        present = torch.zeros(spans, size, dtype=torch.bool, device=span.device)
        # Several latents share a query; they write the same value.
        x = x.index_put((span, query), bound)
        present[span, query] = True
        inner = self.latent_in(noisy).to(bound.dtype) + self.place(within).to(bound.dtype) + bound
        x = x.index_put((span, queries + within), inner)
        present[span, queries + within] = True
        times = torch.zeros(spans, device=span.device)
        times[span] = time
        moved = self.time_in(time_features(times)).to(x.dtype)[:, None].expand(-1, size, -1)
        for layer in self.layers:
            x = layer(x, moved, present[:, None, None])
        out: Tensor = self.latent_out(self.norm(x))[span, queries + within]
        return out
