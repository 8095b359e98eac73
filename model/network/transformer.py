"""The one transformer: every paradigm is a batch to it.

RMSNorm, QK-norm, SwiGLU, grouped-query attention, rotary positions on three axes. Experts: one for
all (dense), one for each expert (mixture of transformers, Liang et al. 2024), or learned top-k in
the feed-forward part (mixture of experts, dropless).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gristmill.errors import ConfigurationError
from gristmill.model.documents.batch import IGNORE, PackedBatch, SemanticSpan
from gristmill.model.encoders.load import make_tower
from gristmill.model.network.attention import Mask, TokenMeta, allow, make_mask
from gristmill.model.network.blocks import Block, Cache, Context
from gristmill.model.network.cross_entropy import chunked_cross_entropy
from gristmill.model.network.experts import Sorting
from gristmill.model.network.flow_head import BoundLatents, FlowHead, time_features
from gristmill.model.network.initial_weights import fill
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.rotary import PLACE_FEATURES, Rotary, place_features
from gristmill.model.network.token_flow_head import TokenFlowHead


@dataclass
class Losses:
    """Sums over a batch; whoever has several batches divides by the denominators of them all."""

    # Sum of weight * cross entropy.
    text: Float[Tensor, ""]
    # Sum over latents of the mean squared error of velocity.
    flow: Float[Tensor, ""]
    # Sum over labels of weight * log(Z)^2.
    z: Float[Tensor, ""]
    # Of each layer of learned experts: the places of tokens that each got, and the sum over tokens
    # of its share; see `balance`.
    routed: Float[Tensor, "layers experts"]
    shares: Float[Tensor, "layers experts"]
    # Of each labelled position the cross entropy, detached, and the flat index: for curves per
    # modality and source.
    entropies: Float[Tensor, " labels"]
    labelled: Int64[Tensor, " labels"]
    # The same of each latent with a loss.
    flow_errors: Float[Tensor, " flows"]
    flow_index: Int64[Tensor, " flows"]


def balance(
    routed: Float[Tensor, "layers experts"],
    shares: Float[Tensor, "layers experts"],
    tokens: float,
) -> Float[Tensor, ""]:
    """The balance term of Switch (Fedus et al. 2021), experts * sum(share of tokens * mean share of
    weight), as a mean over layers; 0 without learned experts.

    `routed` may be of all ranks where `shares` are one's own: with the `tokens` of all, the terms
    of ranks add up to that of one process.
    """
    if not len(routed):
        return shares.sum()
    used = routed / routed.sum(dim=1, keepdim=True).clamp_min(1)
    return routed.shape[1] * (used * shares).sum(dim=1).mean() / tokens


class Transformer(nn.Module):
    """Ids, latents and semantic patches in; logits and velocities out. Made on the meta device it
    has no weights yet: see `sharding.materialise` and `initial_weights.fill`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        # Where in its picture a position stands. Rotary angles tell where others are, seen from
        # here; what is said of a place ("left of") must be in what is passed on.
        self.place_in = nn.Linear(PLACE_FEATURES, config.width, bias=False)
        self.rotary = Rotary(
            config.head_dim, config.rope_base, config.rope_sections, config.rope_interleaved,
            config.rope_scaling,
        )  # fmt: skip
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        if not config.tied:
            self.lm = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.vision is not None:
            self.vision = make_tower(config.vision)
        if config.semantic_width:
            self.semantic_proj = nn.Sequential(
                nn.Linear(config.semantic_width, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.width),
            )
        if config.latent_channels and config.flow_head != "query":
            self.latent_in = nn.Linear(config.latent_channels, config.width)
            self.time_in = nn.Sequential(
                nn.Linear(64, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
            )
        if config.flow_head == "linear":
            self.latent_out = nn.Linear(config.width, config.latent_channels)
        elif config.flow_head == "query":
            self.flow_head = FlowHead(
                in_features=config.width,
                channels=config.latent_channels,
                width=config.flow_head_width or config.width,
                layers=config.flow_head_layers or 4,
                head_dim=config.head_dim,
            )
        elif config.flow_head == "token":
            self.token_head = TokenFlowHead(
                in_features=config.width,
                channels=config.latent_channels,
                width=config.flow_head_width or config.width,
                layers=config.flow_head_layers or 3,
            )
        if not self.embed.weight.is_meta:
            fill(self, seed=0)

    @property
    def output_weight(self) -> Float[Tensor, "ids width"]:
        """What makes logits of outputs; the embeddings, where the two are tied."""
        return self.embed.weight if self.config.tied else self.lm.weight

    def embed_batch(self, batch: PackedBatch) -> Float[Tensor, "rows length width"]:
        """Each position from its id, its latent at its time, or its patch."""
        rows, length = batch.ids.shape
        x = self.embed(batch.ids.clamp_min(0)) * (batch.ids >= 0)[:, :, None]
        if torch.is_autocast_enabled(x.device.type):
            # What blocks add to is kept in float32, whatever weights are gathered in.
            x = x.float()
        inside = (batch.span >= 0)[:, :, None]
        x = x + self.place_in(place_features(batch.pos)).to(x.dtype) * inside
        flat: Tensor = x.view(rows * length, -1)
        # Without latents too: on every rank these maps must have a gradient, be it zero.
        if self.config.latent_channels and self.config.flow_head != "query":
            noisy = self.noisy(batch)
            inner = self.latent_in(noisy) + self.time_in(time_features(batch.latent_t))
            if self.config.flow_head == "token":
                # What is drawn next is not at the position that draws it.
                inner = inner * (batch.latent_loss == 0)[:, None]
            flat = flat.index_add(0, batch.latent_idx, inner.to(flat.dtype))
        if self.config.semantic_width:
            flat = flat.index_add(
                0, batch.semantic_idx, self.semantic_proj(self._features(batch)).to(flat.dtype)
            )
        return flat.view(rows, length, -1)

    def _features(self, batch: PackedBatch) -> Float[Tensor, "places features"]:
        """Semantic features of the batch's places: given, or what the tower makes of pixels."""
        features = batch.semantic
        if self.config.vision is not None:
            learns = any(parameter.requires_grad for parameter in self.vision.parameters())
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                features = self.vision(features, [span.grid for span in batch.semantic_spans])
        if all(span.grid == span.places for span in batch.semantic_spans):
            return features
        parts = features.split([math.prod(span.grid) for span in batch.semantic_spans])
        pairs = zip(parts, batch.semantic_spans, strict=True)
        return torch.cat([_resampled(part, span) for part, span in pairs])

    @staticmethod
    def noisy(batch: PackedBatch) -> Float[Tensor, "latents channels"]:
        """(1 - t) * clean + t * noise (rectified flow, Liu et al. 2022)."""
        t = batch.latent_t[:, None]
        return (1 - t) * batch.latent + t * batch.latent_eps

    def _context(self, mask: Mask, batch: PackedBatch) -> Context:
        cos, sin = self.rotary(batch.pos)
        real = (batch.doc >= 0).reshape(-1)
        if self.config.experts != "mot":
            return Context(mask, cos, sin, None, None, real)
        flat = batch.expert.reshape(-1).long()
        return Context(mask, cos, sin, flat, Sorting.of(flat, 2), real)

    def hidden(
        self, batch: PackedBatch
    ) -> tuple[Float[Tensor, "positions width"], Float[Tensor, "layers 2 experts"]]:
        """Normed outputs of all rows' positions in turn, and what learned experts were given."""
        rows, length = batch.ids.shape
        index = torch.arange(length, device=batch.ids.device).expand(rows, length)
        mask = make_mask(TokenMeta(index, batch.doc, batch.span, batch.attn_mode))
        context = self._context(mask, batch)
        x = self.embed_batch(batch).view(rows * length, -1)
        given: list[Tensor] = []
        for block in self.blocks:
            if self.config.checkpointing and self.training:
                x, load = checkpoint(block, x, (rows, length), context, use_reentrant=False)
            else:
                x, load = block(x, (rows, length), context)
            if load is not None:
                given.append(load)
        loads = torch.stack(given) if given else x.new_zeros(0, 2, 0, dtype=torch.float32)
        return self._normed(x), loads

    def _normed(self, x: Tensor) -> Tensor:
        # The stream is in float32, the gain in what weights are gathered in.
        return F.rms_norm(x, x.shape[-1:], self.norm.weight.to(x.dtype), self.norm.eps)

    def forward(self, batch: PackedBatch) -> Losses:
        """The losses of a batch, as sums."""
        # What must be known of the batch before the device has work, as it waits for it.
        labels = batch.labels.reshape(-1)
        labelled = (labels != IGNORE).nonzero()[:, 0]
        flowing, spans = self._flowing(batch)
        hidden, loads = self.hidden(batch)
        weight = batch.weight.reshape(-1)[labelled]
        entropies, partition = chunked_cross_entropy(
            hidden[labelled], self.output_weight, labels[labelled]
        )
        errors = self._flow_errors(batch, hidden, flowing, spans)
        return Losses(
            text=(weight * entropies).sum(),
            flow=errors.sum(),
            z=(weight * partition**2).sum(),
            routed=loads[:, 0].detach(),
            shares=loads[:, 1],
            entropies=entropies.detach(),
            labelled=labelled,
            # Without a latent that has a loss there is one error all the same, of no place.
            flow_errors=errors.detach()[: len(flowing)],
            flow_index=batch.latent_idx[flowing],
        )

    def _flowing(self, batch: PackedBatch) -> tuple[Tensor, BoundLatents | None]:
        """The latents that have a loss, and how a head on queries has all of them."""
        if not len(batch.latent):
            return batch.latent_idx, None
        chosen = (batch.latent_loss > 0).nonzero()[:, 0]
        bound = len(chosen) and self.config.flow_head == "query"
        return chosen, self._bound(batch) if bound else None

    @staticmethod
    def _bound(batch: PackedBatch) -> BoundLatents:
        return BoundLatents.of(batch.latent_idx, batch.doc.reshape(-1)[batch.latent_idx])

    def _flow_errors(
        self, batch: PackedBatch, hidden: Tensor, chosen: Tensor, bound: BoundLatents | None
    ) -> Tensor:
        if not len(chosen):
            # Touches the head, so that every rank has a gradient for it.
            return self._idle_flow(hidden)
        velocity = self.velocity(batch, hidden, bound)[chosen].float()
        target = (batch.latent_eps - batch.latent)[chosen]
        return ((velocity - target) ** 2).mean(dim=1) * batch.latent_loss[chosen]

    def _idle_flow(self, hidden: Tensor) -> Tensor:
        """No error, and a zero gradient for the head."""
        heads = {"linear": "latent_out", "query": "flow_head", "token": "token_head"}
        zero = hidden.new_zeros(1, dtype=torch.float32)
        if self.config.flow_head in heads:
            for parameter in getattr(self, heads[self.config.flow_head]).parameters():
                zero = zero + 0 * parameter.float().sum()
        return zero

    def velocity(
        self,
        batch: PackedBatch,
        hidden: Float[Tensor, "positions width"],
        bound: BoundLatents | None = None,
    ) -> Float[Tensor, "latents channels"]:
        """Predicted noise - clean for each latent of the batch; `bound`: how a head on queries has
        them, where that is known already."""
        if self.config.flow_head == "linear":
            out: Tensor = self.latent_out(hidden[batch.latent_idx])
            return out
        if self.config.flow_head == "query":
            bound = bound or self._bound(batch)
            return self.flow_head.packed(
                hidden, bound, self.noisy(batch), batch.latent_t, batch.latent_place
            )
        if self.config.flow_head == "token":
            drawn: Tensor = self.token_head(
                hidden[batch.latent_idx], self.noisy(batch), batch.latent_t
            )
            return drawn
        raise ConfigurationError("the batch has latents with a loss, the model has no flow head")

    def extend(
        self, batch: PackedBatch, cache: Cache, *, commit: bool = True
    ) -> Float[Tensor, "rows length width"]:
        """Read on from a cache: normed outputs of the batch's positions, which see each other and
        what the cache holds. They stay in it only with `commit`. The batch's `doc`
        and `span` count on from those of the cache."""
        rows, length = batch.ids.shape
        index = torch.arange(cache.length, cache.length + length, device=batch.ids.device)
        new = TokenMeta(index.expand(rows, length), batch.doc, batch.span, batch.attn_mode)
        known = cache.meta.join(new) if cache.meta else new
        context = self._context(allow(new, known), batch)
        x = self.embed_batch(batch).view(rows * length, -1)
        for layer, block in enumerate(self.blocks):
            x, _ = block(x, (rows, length), context, cache, layer)
        if commit:
            cache.meta = known
        return self._normed(x).view(rows, length, -1)

    def logits(
        self, hidden: Float[Tensor, "*places width"], first: int = 0, last: int | None = None
    ) -> Float[Tensor, "*places ids"]:
        """Logits of ids first..last-1 only."""
        return F.linear(hidden, self.output_weight[first:last]).float()

    def to_dict(self) -> dict[str, object]:
        """The configuration."""
        return dataclasses.asdict(self.config)


def _resampled(features: Tensor, span: SemanticSpan) -> Tensor:
    """Features of a picture's patches at its places: bilinear, averaged where these are coarser."""
    if span.grid == span.places:
        return features
    planes = features.unflatten(0, span.grid).permute(2, 0, 1)[None].float()
    fitted = F.interpolate(
        planes, span.places, mode="bilinear", align_corners=False, antialias=True
    )
    return fitted[0].permute(1, 2, 0).flatten(0, 1).to(features.dtype)
