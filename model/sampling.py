"""A session of decoding: prompts that were read, and what is read on from them.

All samplers read on from one cache. Guidance (Ho & Salimans 2022) doubles the rows: the first half
has its prompt, the second has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped, UInt8
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.batch import (
    IGNORE,
    Document,
    PackedBatch,
    pack,
)
from gristmill.model.blocks import Cache
from gristmill.model.document_builder import grid_places
from gristmill.model.picture_grid import square_grid
from gristmill.model.training_setup import ModelBundle
from gristmill.model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample."""

    # Text: 0 takes the likeliest. Codes: usually 1.
    temperature: float = 1.0
    # Only so many of the likeliest; 0: all.
    top_k: int = 0
    # 1: the prompt alone; more: away from what would be drawn without it.
    guidance: float = 1.0
    # Passes for masked codes and flows.
    steps: int = 24
    # Share of flow time, from noise (1) to picture (0), in which guidance works.
    guidance_from: float = 1.0
    guidance_to: float = 0.0
    # "euler", or "heun" with two passes a step.
    solver: str = "euler"
    # Noise in the choice of what to unmask first.
    choice_temperature: float = 4.0
    longest: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be sampled."""
        if self.solver not in ("euler", "heun"):
            raise ConfigurationError(f"solver {self.solver!r}; choose euler or heun")
        if self.steps < 1 or self.longest < 1 or self.temperature < 0 or self.top_k < 0:
            raise ConfigurationError(
                f"steps {self.steps}, longest {self.longest}, temperature {self.temperature}, "
                f"top_k {self.top_k}: give at least one step, and nothing negative"
            )


class DecodingSession:
    """Rows of one prompt each, and what was read on from them."""

    def __init__(
        self,
        model: Transformer,
        bundle: ModelBundle,
        prompts: Sequence[Document],
        sampling: Sampling,
        grid: tuple[int, int] | None = None,
    ) -> None:
        """`grid`: rows and columns of the picture that all rows draw next."""
        self.model, self.bundle, self.sampling = model, bundle, sampling
        self.grid = grid or square_grid(bundle.layout.patches)
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(sampling.seed)
        length = max(len(prompt) for prompt in prompts)
        batch = pack([[prompt] for prompt in prompts], length).to(self.device)
        batch = bundle.encode_pictures(batch)
        self.cache = Cache()
        hidden = model.extend(batch, self.cache)
        ends = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        rows = torch.arange(len(prompts), device=self.device)
        # Output of the last position of each row, and the time that comes next.
        self.last = hidden[rows, ends - 1]
        self.time = batch.pos[rows, ends - 1, 0] + 1
        self.spans = int(batch.span.max()) + 1
        self.rows = len(prompts)

    def read(
        self,
        ids: Int64[Tensor, "rows new"],
        pos: Int[Tensor, "rows new 3"],
        *,
        attn_mode: int,
        expert: int,
        span: int,
        commit: bool,
        latents: tuple[Float[Tensor, "rows new channels"], float] | None = None,
    ) -> Float[Tensor, "rows new width"]:
        """Outputs of new positions, which may hold noisy latents, all of one time."""
        rows = len(ids)
        zero = torch.zeros_like(ids)
        channels = self.bundle.layout.latent_channels
        values = torch.zeros(0, channels, device=self.device)
        time, index = torch.zeros(0, device=self.device), zero.reshape(-1)[:0]
        if latents is not None:
            values = latents[0].reshape(-1, channels)
            time = torch.full((len(values),), latents[1], device=self.device)
            index = torch.arange(len(values), device=self.device)
        batch = PackedBatch(
            ids=ids,
            labels=zero + IGNORE,
            weight=zero.float(),
            doc=zero.int(),
            span=(zero + span).int(),
            attn_mode=(zero + attn_mode).byte(),
            expert=(zero + expert).byte(),
            pos=pos.int(),
            latent=values,
            latent_idx=index,
            latent_t=time,
            latent_loss=time,
            # Mixed with itself, a noisy latent stays what it is.
            latent_eps=values,
            latent_place=torch.zeros(len(values), 2, dtype=torch.int32, device=self.device),
            semantic=torch.zeros(0, self.bundle.layout.semantic_width, device=self.device),
            semantic_idx=index[:0],
            semantic_cu_seqlens=torch.zeros(1, dtype=torch.int32, device=self.device),
            source=[[0]] * rows,
        )
        return self.model.extend(batch, self.cache, commit=commit)

    def grid_pos(self) -> Int[Tensor, "rows positions 3"]:
        """pos of a picture at the present time: a position for each place and codebook."""
        repeat = max(1, len(self.bundle.vocabulary.codebooks))
        rows, columns = grid_places(self.grid, self.grid, repeat)
        places = torch.tensor([[0] * len(rows), rows, columns], device=self.device).T
        return places + self.time[:, None, None]

    def line_pos(self, count: int) -> Int[Tensor, "rows {count} 3"]:
        """pos of text from the present time on."""
        steps = self.time[:, None] + torch.arange(count, device=self.device)
        return steps[:, :, None].expand(-1, -1, 3)

    @property
    def places(self) -> int:
        """Places of the picture that is drawn."""
        return self.grid[0] * self.grid[1]

    def adjustment(self) -> Float[Tensor, " codes"]:
        """Log weights of all codes, which were learnt with and must not be drawn with."""
        return self.bundle.code_weights.log().to(self.device)

    def guided(self, values: Tensor) -> Tensor:
        """Rows with and without prompt -> rows with more prompt: without + g (with - without)."""
        if self.sampling.guidance == 1:
            return values
        given, free = values.chunk(2)
        return free + self.sampling.guidance * (given - free)

    def doubled(self, values: Tensor) -> Tensor:
        """The same for the rows with and without prompt."""
        return values if self.sampling.guidance == 1 else torch.cat([values, values])

    def choose(self, logits: Float[Tensor, "*places ids"]) -> Int64[Tensor, "*places"]:
        """Ids by temperature and top-k."""
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits / self.sampling.temperature
        if self.sampling.top_k:
            least = logits.topk(min(self.sampling.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        flat = logits.softmax(dim=-1).reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(flat, 1, generator=self.generator)
        return drawn.view(logits.shape[:-1])


def to_pictures(
    bundle: ModelBundle, drawn: Shaped[Tensor, "n ..."], grid: tuple[int, int]
) -> UInt8[np.ndarray, "n height width 3"]:
    """What was drawn, codes or latents in raster order, decoded to RGB."""
    from gristmill.model.codecs.base import to_bytes

    shaped = drawn.view(len(drawn), *grid, -1)
    with torch.no_grad():
        return to_bytes(bundle.codec.to(shaped.device).decode(shaped)).cpu().numpy()
