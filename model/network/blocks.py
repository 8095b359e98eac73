"""Blocks of the transformer: attention over a cache, feed-forward, mixtures of experts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.model.network.attention import Mask, TokenMeta, attend, kernel_dtype
from gristmill.model.network.experts import ExpertLinear, ExpertNorm, Sorting
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.rotary import rotate


class Cache:
    """Keys and values of what was read so far, and where it stands; filled by
    `Transformer.extend`.

    All rows have the same number of slots; those that a row does not use are of no document. Room
    doubles when it runs out, so that reading on costs what is new.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.meta: TokenMeta | None = None

    @property
    def length(self) -> int:
        """Slots in use."""
        return 0 if self.meta is None else self.meta.doc.shape[1]

    def keep(self, length: int) -> None:
        """Forget all but the first slots."""
        if self.meta is not None:
            fields = dataclasses.fields(self.meta)
            kept = {field.name: getattr(self.meta, field.name)[:, :length] for field in fields}
            self.meta = TokenMeta(**kept)

    def put(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Lay new keys and values [B, H, S, D] behind those in use; all of them, [B, H, L+S, D].
        They count as used only when the caller lengthens `places`."""
        end = self.length + key.shape[2]
        for store, new in ((self.keys, key), (self.values, value)):
            if layer == len(store):
                store.append(new.new_empty(*new.shape[:2], end, new.shape[3]))
            if store[layer].shape[2] < end:
                old = store[layer]
                grown = old.new_empty(*old.shape[:2], max(2 * old.shape[2], end), old.shape[3])
                grown[:, :, : self.length] = old[:, :, : self.length]
                store[layer] = grown
            store[layer][:, :, self.length : end] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


@dataclass
class Context:
    """What all blocks of one pass share."""

    mask: Mask
    cos: Tensor
    sin: Tensor
    expert: Tensor | None  # [N]
    sorting: Sorting | None
    # [N]: False for padding, which learned experts need not share out among them.
    real: Tensor


class Attention(nn.Module):
    """Grouped-query attention; queries and keys are normed, where the model wants it."""

    def __init__(self, config: ModelConfig, experts: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.heads, config.kv_heads, config.head_dim
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = ExpertLinear(experts, config.width, rows, config.qkv_bias)
        self.out = ExpertLinear(
            experts, config.heads * config.head_dim, config.width, config.out_bias
        )
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = ExpertNorm(experts, config.head_dim, config.norm_epsilon)
            self.k_norm = ExpertNorm(experts, config.head_dim, config.norm_epsilon)

    def forward(
        self, x: Tensor, shape: tuple[int, int], context: Context, cache: Cache | None, layer: int
    ) -> Tensor:
        """x: [N, width], in the order of tokens, and the same comes out."""
        rows, length = shape
        sorting = context.sorting
        mixed = self.qkv(x if sorting is None else x[sorting.order], sorting)
        if sorting is not None:
            mixed = mixed[sorting.inverse]
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        heads = mixed.view(rows * length, sum(sizes), self.dim)
        q, k, v = heads.split(sizes, dim=1)
        # Normed and turned in float32.
        q, k = q.float(), k.float()
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q, context.expert), self.k_norm(k, context.expert)
        q, k = rotate(q, context.cos, context.sin), rotate(k, context.cos, context.sin)
        q, k, v = (
            t.to(kernel_dtype(v)).view(rows, length, -1, self.dim).transpose(1, 2)
            for t in (q, k, v)
        )
        if cache is not None:
            k, v = cache.put(layer, k, v)
        seen = attend(q, k, v, context.mask).to(mixed.dtype)
        flat = seen.transpose(1, 2).reshape(rows * length, -1)
        out: Tensor = self.out(flat if sorting is None else flat[sorting.order], sorting)
        return out if sorting is None else out[sorting.inverse]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


class FeedForward(nn.Module):
    """A gated unit: SwiGLU (Shazeer 2020), or with another activation."""

    def __init__(self, config: ModelConfig, experts: int) -> None:
        super().__init__()
        bias = config.feed_forward_bias
        self.up = ExpertLinear(experts, config.width, 2 * config.feed_forward, bias)
        self.down = ExpertLinear(experts, config.feed_forward, config.width, bias)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        sorting = context.sorting
        gate, up = self.up(x if sorting is None else x[sorting.order], sorting).chunk(2, dim=-1)
        out = self.down(self.activation(gate) * up, sorting)
        return (out if sorting is None else out[sorting.inverse]), None


class MixtureOfExperts(nn.Module):
    """Learned top-k of many feed-forward experts; no token is dropped. Beside the output it gives
    what the balance term is made of, [2, experts], padding not counted: places of tokens that each
    expert got, and the sum of its shares."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts, self.top_k = config.moe_experts, config.moe_top_k
        self.normalised = config.moe_normalised
        self.activation = _ACTIVATIONS[config.activation]
        self.router = nn.Linear(config.width, self.experts, bias=False)
        self.up = ExpertLinear(self.experts, config.width, 2 * config.expert_width)
        self.down = ExpertLinear(self.experts, config.expert_width, config.width)

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):
            shares = F.linear(x.float(), self.router.weight.float()).softmax(dim=-1)
        weights, chosen = shares.topk(self.top_k, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        sorting = Sorting.of(chosen.reshape(-1), self.experts)
        token = sorting.order // self.top_k
        gate, up = self.up(x[token], sorting).chunk(2, dim=-1)
        out = self.down(self.activation(gate) * up, sorting)[sorting.inverse]
        out = out.view(len(x), self.top_k, -1)
        mixed = (out * weights.to(out.dtype)[:, :, None]).sum(dim=1)
        real = context.real.to(shares.dtype)
        routed = torch.zeros_like(shares[0]).scatter_add(
            0, chosen.reshape(-1), real.repeat_interleave(self.top_k)
        )
        return mixed, torch.stack([routed, (real[:, None] * shares).sum(dim=0)])


class Block(nn.Module):
    """Attention and feed-forward, each normed first and added."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = 2 if config.experts == "mot" else 1
        self.attention_norm = ExpertNorm(experts, config.width, config.norm_epsilon)
        self.attention = Attention(config, experts)
        self.forward_norm = ExpertNorm(experts, config.width, config.norm_epsilon)
        self.feed_forward = (
            MixtureOfExperts(config) if config.experts == "moe" else FeedForward(config, experts)
        )

    def forward(
        self,
        x: Tensor,
        shape: tuple[int, int],
        context: Context,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [N, width] -> the same, and the load of learned experts if there are any."""
        normed = self.attention_norm(x, context.expert)
        x = x + self.attention(normed, shape, context, cache, layer)
        out, load = self.feed_forward(self.forward_norm(x, context.expert), context)
        return x + out, load
