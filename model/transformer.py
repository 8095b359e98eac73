"""The one transformer: every paradigm is a batch to it.

RMSNorm, QK-norm, SwiGLU, grouped-query attention, rotary positions on three axes. Experts: one for
all (dense), one for each route (mixture of transformers, Liang et al. 2024), or learned top-k in
the feed-forward part (mixture of experts, dropless).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gristmill.errors import ConfigurationError
from gristmill.model.attention import Places, allow, attend, make_mask
from gristmill.model.batch import IGNORE, PackedBatch
from gristmill.model.experts import ExpertLinear, ExpertNorm, Sorting
from gristmill.model.flow_head import FlowHead, time_features

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
        if self.experts not in EXPERTS:
            raise ConfigurationError(f"experts {self.experts!r}; choose one of {EXPERTS}")
        if self.flow_head not in FLOW_HEADS:
            raise ConfigurationError(f"flow head {self.flow_head!r}; choose one of {FLOW_HEADS}")
        if self.heads % self.kv_heads:
            raise ConfigurationError(f"{self.heads} heads cannot share {self.kv_heads} keys")
        if self.head_dim % 2 or self.head_dim < 6:
            raise ConfigurationError(f"a head of {self.head_dim}; rotary axes need an even >= 6")
        if self.experts == "moe" and not 1 <= self.moe_top_k <= self.moe_experts:
            raise ConfigurationError(f"top {self.moe_top_k} of {self.moe_experts} experts")
        if self.flow_head != "none" and self.latent_channels < 1:
            raise ConfigurationError("a flow head needs latent_channels; give an image codec")

    def parameters(self) -> tuple[int, int]:
        """All parameters, and those that one token uses."""
        with torch.device("meta"):
            model = Transformer(self)
        total = sum(p.numel() for p in model.parameters())
        idle = 0
        if self.experts == "mot":
            # One of two experts is at rest for any token.
            idle = sum(p.numel() // 2 for p in model.blocks.parameters())
        elif self.experts == "moe":
            inactive = self.moe_experts - self.moe_top_k
            idle = self.layers * inactive * 3 * self.width * self.expert_width
        return total, total - idle

    @property
    def expert_width(self) -> int:
        """Feed-forward width of one learned expert."""
        return self.moe_feed_forward or max(16, self.feed_forward // self.moe_top_k)

    def flops_per_token(self, length: int) -> float:
        """Floating point operations of one training step per position, at rows of `length`:
        6 for each active parameter of a matrix, and 12 * layers * heads * head_dim * length / 2
        for attention that is mostly causal (PaLM, appendix B)."""
        active = self.parameters()[1] - self.vocabulary * self.width
        return 6.0 * active + 6.0 * self.layers * self.heads * self.head_dim * length


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021) on time, row and column: each axis has its own share of
    the pairs of a head."""

    frequencies: Tensor
    axis: Tensor

    def __init__(self, head_dim: int, base: float, side_base: float) -> None:
        super().__init__()
        pairs = head_dim // 2
        side = pairs // 3
        counts = (pairs - 2 * side, side, side)
        frequencies = [
            start ** (-torch.arange(count, dtype=torch.float32) / count)
            for start, count in zip((base, side_base, side_base), counts, strict=True)
        ]
        self.register_buffer("frequencies", torch.cat(frequencies), persistent=False)
        axis = [number for number, count in enumerate(counts) for _ in range(count)]
        self.register_buffer("axis", torch.tensor(axis), persistent=False)

    def forward(self, pos: Tensor) -> tuple[Tensor, Tensor]:
        """pos [B, L, 3] -> cosines and sines, [B, 1, L, pairs]."""
        angles = pos.float()[:, :, self.axis] * self.frequencies
        return angles.cos()[:, None], angles.sin()[:, None]


_PLACE_FEATURES = 16


def place_features(pos: Tensor) -> Tensor:
    """[B, L, 3] -> [B, L, 16]: cosines and sines of row and column, of periods from 4 to 256."""
    frequencies = math.tau / 4.0 ** torch.arange(1, 5, device=pos.device, dtype=torch.float32)
    angles = (pos[:, :, 1:, None].float() * frequencies).flatten(2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, H, L, D] turned by the angles of each pair."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)


class Cache:
    """Keys and values of what was read so far, and where it stands; filled by
    `Transformer.extend`.

    All rows have the same number of slots; those that a row does not use are of no document. Room
    doubles when it runs out, so that reading on costs what is new.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.places: Places | None = None

    @property
    def length(self) -> int:
        """Slots in use."""
        return 0 if self.places is None else self.places.doc.shape[1]

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
class _Context:
    """What all blocks of one pass share."""

    mask: Any
    cos: Tensor
    sin: Tensor
    route: Tensor | None  # [N]
    sorting: Sorting | None


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys."""

    def __init__(self, config: ModelConfig, experts: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.heads, config.kv_heads, config.head_dim
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = ExpertLinear(experts, config.width, rows)
        self.out = ExpertLinear(experts, config.heads * config.head_dim, config.width)
        self.q_norm = ExpertNorm(experts, config.head_dim)
        self.k_norm = ExpertNorm(experts, config.head_dim)

    def forward(
        self, x: Tensor, shape: tuple[int, int], context: _Context, cache: Cache | None, layer: int
    ) -> Tensor:
        """x: [N, width], in the order of tokens, and the same comes out."""
        rows, length = shape
        sorting = context.sorting
        mixed = self.qkv(x if sorting is None else x[sorting.order], sorting)
        if sorting is not None:
            mixed = mixed[sorting.back]
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        heads = mixed.view(rows * length, sum(sizes), self.dim)
        q, k, v = heads.split(sizes, dim=1)
        q, k = self.q_norm(q, context.route), self.k_norm(k, context.route)
        q, k, v = (t.view(rows, length, -1, self.dim).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, context.cos, context.sin), rotate(k, context.cos, context.sin)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:
            k, v = cache.put(layer, k, v)
        seen = attend(q, k, v, context.mask)
        flat = seen.transpose(1, 2).reshape(rows * length, -1)
        out: Tensor = self.out(flat if sorting is None else flat[sorting.order], sorting)
        return out if sorting is None else out[sorting.back]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, experts: int) -> None:
        super().__init__()
        self.up = ExpertLinear(experts, config.width, 2 * config.feed_forward)
        self.down = ExpertLinear(experts, config.feed_forward, config.width)

    def forward(self, x: Tensor, context: _Context) -> tuple[Tensor, Tensor | None]:
        sorting = context.sorting
        gate, up = self.up(x if sorting is None else x[sorting.order], sorting).chunk(2, dim=-1)
        out = self.down(F.silu(gate) * up, sorting)
        return (out if sorting is None else out[sorting.back]), None


class MixtureOfExperts(nn.Module):
    """Learned top-k of many feed-forward experts; no token is dropped. The balance term is that of
    Switch (Fedus et al. 2021), per layer: experts * sum(share of tokens * share of weight)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts, self.top_k = config.moe_experts, config.moe_top_k
        self.router = nn.Linear(config.width, self.experts, bias=False)
        self.up = ExpertLinear(self.experts, config.width, 2 * config.expert_width)
        self.down = ExpertLinear(self.experts, config.expert_width, config.width)

    def forward(self, x: Tensor, context: _Context) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):
            shares = F.linear(x.float(), self.router.weight.float()).softmax(dim=-1)
        weights, chosen = shares.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        sorting = Sorting.of(chosen.reshape(-1), self.experts)
        token = sorting.order // self.top_k
        gate, up = self.up(x[token], sorting).chunk(2, dim=-1)
        out = self.down(F.silu(gate) * up, sorting)[sorting.back]
        out = out.view(len(x), self.top_k, -1)
        mixed = (out * weights.to(out.dtype)[:, :, None]).sum(dim=1)
        used = sorting.counts.float() / (len(x) * self.top_k)
        return mixed, self.experts * (used * shares.mean(dim=0)).sum()


class Block(nn.Module):
    """Attention and feed-forward, each normed first and added."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = 2 if config.experts == "mot" else 1
        self.attention_norm = ExpertNorm(experts, config.width)
        self.attention = Attention(config, experts)
        self.forward_norm = ExpertNorm(experts, config.width)
        self.feed_forward = (
            MixtureOfExperts(config) if config.experts == "moe" else FeedForward(config, experts)
        )

    def forward(
        self,
        x: Tensor,
        shape: tuple[int, int],
        context: _Context,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [N, width] -> the same, and the balance term if there is one."""
        normed = self.attention_norm(x, context.route)
        x = x + self.attention(normed, shape, context, cache, layer)
        out, balance = self.feed_forward(self.forward_norm(x, context.route), context)
        return x + out, balance


@dataclass
class Losses:
    """Sums over a batch; whoever has several batches divides by the denominators of them all."""

    text: Tensor  # sum of weight * cross entropy
    flow: Tensor  # sum over latents of the mean squared error of velocity
    z: Tensor  # sum over labels of weight * log(Z)^2
    balance: Tensor  # mean over layers
    # Per labelled position: cross entropy and label, detached, for curves per modality and source.
    entropies: Tensor
    labelled: Tensor  # [k] flat index of each labelled position
    flow_errors: Tensor  # [n] detached
    flow_index: Tensor  # [n] flat index of each latent with a loss


class Transformer(nn.Module):
    """Ids, latents and semantic patches in; logits and velocities out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        # Where in its picture a position stands. Rotary angles tell where others are, seen from
        # here; what is said of a place ("left of") must be in what is passed on.
        self.place_in = nn.Linear(_PLACE_FEATURES, config.width, bias=False)
        self.rotary = Rotary(config.head_dim, config.rope_base, config.rope_side_base)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.lm = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.semantic_width:
            self.und_proj = nn.Sequential(
                nn.Linear(config.semantic_width, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.width),
            )
        if config.latent_channels and config.flow_head != "query":
            self.lat_in = nn.Linear(config.latent_channels, config.width)
            self.time_in = nn.Sequential(
                nn.Linear(64, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
            )
        if config.flow_head == "linear":
            self.lat_out = nn.Linear(config.width, config.latent_channels)
        elif config.flow_head == "query":
            self.flow_head = FlowHead(
                entering=config.width,
                channels=config.latent_channels,
                width=config.flow_head_width or config.width,
                layers=config.flow_head_layers or 4,
                head_dim=config.head_dim,
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of deviation 1/sqrt(fan in), those that end in the residual stream
        smaller by sqrt(2 * layers); the flow output is zero."""
        shrink = 1 / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, ExpertLinear):
                deviation = 1 / math.sqrt(module.entering)
                if name.endswith((".out", ".down")):
                    deviation *= shrink
                nn.init.normal_(module.weight, std=deviation)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        entering = 0.02 if self.config.width > 512 else 0.1
        nn.init.normal_(self.embed.weight, std=entering)
        nn.init.normal_(self.place_in.weight, std=entering)
        nn.init.normal_(self.lm.weight, std=0.5 / math.sqrt(self.config.width))
        if self.config.flow_head == "linear":
            nn.init.zeros_(self.lat_out.weight)
        elif self.config.flow_head == "query":
            self.flow_head.reset_last()

    @torch.no_grad()
    def start_codes(self, first: int, features: Tensor) -> None:
        """Begin the embeddings and output rows of ids from `first` on with what the codes stand
        for, [codes, features], so that like codes are alike from the first step."""
        centred = features.double() - features.double().mean(dim=0)
        values, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        # Half whitened: strong directions lead, weak ones are not lost.
        scale = values.clamp_min(float(values[-1]) * 1e-4) ** -0.25
        mixed = (centred @ axes * scale).float()
        mixed = mixed / mixed.std()
        generator = torch.Generator().manual_seed(first)
        for weight in (self.embed.weight, self.lm.weight):
            turn = torch.randn(mixed.shape[1], weight.shape[1], generator=generator)
            rows = (mixed @ turn / math.sqrt(mixed.shape[1])).to(weight)
            old = weight[first : first + len(rows)]
            weight[first : first + len(rows)] = rows * old.std() + 0.2 * old

    def embed_batch(self, batch: PackedBatch) -> Tensor:
        """[B, L, width]: each position from its id, its latent at its time, or its patch."""
        rows, length = batch.ids.shape
        x = self.embed(batch.ids.clamp_min(0)) * (batch.ids >= 0)[:, :, None]
        inside = (batch.seg >= 0)[:, :, None]
        x = x + self.place_in(place_features(batch.pos)).to(x.dtype) * inside
        flat: Tensor = x.view(rows * length, -1)
        # Without latents too: on every rank these maps must have a gradient, be it zero.
        if self.config.latent_channels and self.config.flow_head != "query":
            noisy = self.noisy(batch)
            inner = self.lat_in(noisy) + self.time_in(time_features(batch.lat_t))
            flat = flat.index_add(0, batch.lat_idx, inner.to(flat.dtype))
        if self.config.semantic_width:
            flat = flat.index_add(0, batch.und_idx, self.und_proj(batch.und).to(flat.dtype))
        return flat.view(rows, length, -1)

    @staticmethod
    def noisy(batch: PackedBatch) -> Tensor:
        """(1 - t) * clean + t * noise, [N, C] (rectified flow, Liu et al. 2022)."""
        t = batch.lat_t[:, None]
        return (1 - t) * batch.lat + t * batch.lat_eps

    def _context(self, mask: Any, pos: Tensor, route: Tensor) -> _Context:
        cos, sin = self.rotary(pos)
        if self.config.experts != "mot":
            return _Context(mask, cos, sin, None, None)
        flat = route.reshape(-1).long()
        return _Context(mask, cos, sin, flat, Sorting.of(flat, 2))

    def hidden(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Normed outputs [B * L, width], and the balance term."""
        rows, length = batch.ids.shape
        index = torch.arange(length, device=batch.ids.device).expand(rows, length)
        mask = make_mask(Places(index, batch.doc, batch.seg, batch.kind))
        context = self._context(mask, batch.pos, batch.route)
        x = self.embed_batch(batch).view(rows * length, -1)
        balances: list[Tensor] = []
        for block in self.blocks:
            if self.config.checkpointing and self.training:
                x, balance = checkpoint(block, x, (rows, length), context, use_reentrant=False)
            else:
                x, balance = block(x, (rows, length), context)
            if balance is not None:
                balances.append(balance)
        mean = torch.stack(balances).mean() if balances else x.new_zeros(())
        return self.norm(x), mean

    def forward(self, batch: PackedBatch) -> Losses:
        """The losses of a batch, as sums."""
        hidden, balance = self.hidden(batch)
        labels = batch.labels.reshape(-1)
        labelled = (labels != IGNORE).nonzero()[:, 0]
        weight = batch.weight.reshape(-1)[labelled]
        logits = self.lm(hidden[labelled]).float()
        partition = logits.logsumexp(dim=-1)
        target = logits.gather(1, labels[labelled][:, None])[:, 0]
        entropies = partition - target
        errors, where = self._flow_errors(batch, hidden)
        return Losses(
            text=(weight * entropies).sum(),
            flow=errors.sum(),
            z=(weight * partition**2).sum(),
            balance=balance,
            entropies=entropies.detach(),
            labelled=labelled,
            flow_errors=errors.detach(),
            flow_index=where,
        )

    def _flow_errors(self, batch: PackedBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        chosen = (batch.lat_loss > 0).nonzero()[:, 0] if len(batch.lat) else batch.lat_idx
        if not len(chosen):
            # Touches the head, so that every rank has a gradient for it.
            return self._idle_flow(hidden), chosen
        velocity = self.velocity(batch, hidden)[chosen].float()
        target = (batch.lat_eps - batch.lat)[chosen]
        error = ((velocity - target) ** 2).mean(dim=1) * batch.lat_loss[chosen]
        return error, batch.lat_idx[chosen]

    def _idle_flow(self, hidden: Tensor) -> Tensor:
        """No error, and a zero gradient for the head."""
        heads = {"linear": "lat_out", "query": "flow_head"}
        zero = hidden.new_zeros(1, dtype=torch.float32)
        if self.config.flow_head in heads:
            for parameter in getattr(self, heads[self.config.flow_head]).parameters():
                zero = zero + 0 * parameter.float().sum()
        return zero

    def velocity(self, batch: PackedBatch, hidden: Tensor) -> Tensor:
        """Predicted noise - clean for each latent of the batch, [N, C]."""
        if self.config.flow_head == "linear":
            out: Tensor = self.lat_out(hidden[batch.lat_idx])
            return out
        if self.config.flow_head == "query":
            return self.flow_head.packed(
                hidden, batch.lat_idx, self.noisy(batch), batch.lat_t,
                batch.doc.reshape(-1)[batch.lat_idx],
            )  # fmt: skip
        raise ConfigurationError("the batch has latents with a loss, the model has no flow head")

    def extend(self, batch: PackedBatch, cache: Cache, *, commit: bool = True) -> Tensor:
        """Read on from a cache: normed outputs [B, L, width] of the batch's positions, which see
        each other and what the cache holds. They stay in it only with `commit`. The batch's `doc`
        and `seg` count on from those of the cache."""
        rows, length = batch.ids.shape
        index = torch.arange(cache.length, cache.length + length, device=batch.ids.device)
        new = Places(index.expand(rows, length), batch.doc, batch.seg, batch.kind)
        known = cache.places.join(new) if cache.places else new
        context = self._context(allow(new, known), batch.pos, batch.route)
        x = self.embed_batch(batch).view(rows * length, -1)
        for layer, block in enumerate(self.blocks):
            x, _ = block(x, (rows, length), context, cache, layer)
        if commit:
            cache.places = known
        return self.norm(x).view(rows, length, -1)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Logits of ids first..last-1 only."""
        return F.linear(hidden, self.lm.weight[first:last]).float()

    def to_dict(self) -> dict[str, Any]:
        """The configuration."""
        return dataclasses.asdict(self.config)
