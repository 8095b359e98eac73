"""A small diffusion transformer on the outputs of learnable queries (MetaQueries, BLIP3-o)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

FEATURES = 64


def _waves(x: Tensor, count: int) -> Tensor:
    """[N] -> [N, count] cosines and sines, of frequencies from 1 to 1/10000."""
    half = count // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=x.device, dtype=torch.float32) / half
    )
    angles = x.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def time_features(t: Float[Tensor, " n"]) -> Float[Tensor, "n 64"]:
    """Cosines and sines of times in 0..1."""
    return _waves(1000 * t, FEATURES)


def plane_features(place: Int[Tensor, "n 2"]) -> Float[Tensor, "n 64"]:
    """Cosines and sines of rows and of columns, of a grid of any size."""
    return torch.cat([_waves(axis, FEATURES // 2) for axis in place.unbind(1)], dim=1)


def at_least_single(x: Tensor) -> Tensor:
    """What blocks add to is kept in float32, as in the transformer; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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


@dataclass(frozen=True)
class BoundLatents:
    """Latents and the queries they are bound to, each span a row: queries, then latents. To find
    this waits for the device, so it is done once, and before there is other work."""

    query: Int[Tensor, " queries"]  # flat index of the position of each
    at: tuple[Tensor, Tensor]  # its row and column
    begins: Int[Tensor, " spans"]  # the first latent of each span
    owner: Int[Tensor, " latents"]  # number of the query of each latent
    slot: tuple[Tensor, Tensor]  # row and column of each latent
    present: Bool[Tensor, "spans length"]

    @property
    def shape(self) -> torch.Size:
        """Spans, and the length of the longest."""
        return self.present.shape

    @classmethod
    def of(cls, latent_idx: Int[Tensor, " latents"], doc: Int[Tensor, " latents"]) -> BoundLatents:
        """`latent_idx`: the flat index of the query to which a latent is bound; latents of a span
        are contiguous and bound to queries in order, so where it falls a new span begins."""
        gap = latent_idx.diff(prepend=latent_idx[:1])
        # Consecutive queries are one apart; between spans lies at least one other position.
        starts = (gap < 0) | (gap > 1) | (doc.diff(prepend=doc[:1]) != 0)
        starts[:1] = True
        begins, span = starts.nonzero()[:, 0], starts.cumsum(0) - 1
        within = torch.arange(len(span), device=span.device) - begins[span]
        # Several latents share a query, which is written once: where one place is written many
        # times with the same value, each of them would have the whole gradient.
        opens = starts | (gap != 0)
        first = opens.nonzero()[:, 0]
        at = span[first], latent_idx[first] - latent_idx[begins[span[first]]]
        queries, latents = torch.stack([at[1].max(), within.max()]).add(1).tolist()
        slot = span, queries + within
        present = torch.zeros(len(begins), queries + latents, dtype=torch.bool, device=span.device)
        present[at] = present[slot] = True
        return cls(latent_idx[first], at, begins, opens.cumsum(0) - 1, slot, present)


class FlowHead(nn.Module):
    """Queries of a span, then its noisy latents, through a few layers; velocities out."""

    def __init__(
        self, *, in_features: int, channels: int, width: int, layers: int, head_dim: int
    ) -> None:
        super().__init__()
        self.condition = nn.Linear(in_features, width)
        self.latent_in = nn.Linear(channels, width)
        self.time_in = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.place_in = nn.Linear(FEATURES, width, bias=False)
        self.layers = nn.ModuleList(_Layer(width, head_dim) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.latent_out = nn.Linear(width, channels)

    def packed(
        self,
        hidden: Float[Tensor, "positions width"],
        bound: BoundLatents,
        noisy: Float[Tensor, "latents channels"],
        time: Float[Tensor, " latents"],
        place: Int[Tensor, "latents 2"],
    ) -> Float[Tensor, "latents channels"]:
        """Velocities of latents, which lie in their pictures at rows and columns `place`."""
        given = at_least_single(self.condition(hidden[bound.query]))
        x = given.new_zeros(*bound.shape, given.shape[1])
        inner = self.latent_in(noisy) + self.place_in(plane_features(place).to(noisy.dtype))
        inner = inner.to(given.dtype) + given[bound.owner]
        x = x.index_put(bound.at, given).index_put(bound.slot, inner)
        moved = self.time_in(time_features(time[bound.begins]).to(noisy.dtype)).to(x.dtype)
        moved = moved[:, None].expand(-1, x.shape[1], -1)
        for layer in self.layers:
            x = layer(x, moved, bound.present[:, None, None])
        out: Tensor = self.latent_out(self.norm(x))[bound.slot]
        return out
