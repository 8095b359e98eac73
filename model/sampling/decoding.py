"""A session of decoding: prompts that were read, and what is read on from them.

All samplers read on from one cache. Guidance (Ho & Salimans 2022) has the rows two or three times:
with the whole prompt, with nothing said, with nothing shown either.
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
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.documents.batch import (
    IGNORE,
    Document,
    PackedBatch,
    pack,
)
from gristmill.model.documents.document_builder import grid_places
from gristmill.model.documents.picture_grid import square_grid
from gristmill.model.network.blocks import Cache
from gristmill.model.network.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample."""

    # Text: 0 takes the likeliest. Codes: usually 1.
    temperature: float = 1.0
    # Only so many of the likeliest; 0: all.
    top_k: int = 0
    # 1: the prompt alone; more: away from what would be drawn if nothing were said.
    guidance: float = 1.0
    # The same of what is shown: the source of an edit, earlier pictures; away from what would be
    # drawn if nothing were said or shown.
    picture_guidance: float = 1.0
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

    @property
    def sets(self) -> int:
        """How many things guidance compares."""
        if self.picture_guidance != 1:
            return 3
        return 1 if self.guidance == 1 else 2

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be sampled."""
        if self.solver not in ("euler", "heun"):
            raise ConfigurationError(f"solver {self.solver!r}; choose euler or heun")
        for name in ("guidance", "picture_guidance"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigurationError(f"{name} is {getattr(self, name)}; give a number")
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
        sets: int = 1,
    ) -> None:
        """`prompts`: one a row; with two or three `sets`, then the rows without what is said, then
        those without what is shown. `grid`: rows and columns of the picture that all rows draw
        next."""
        self.model, self.bundle, self.sampling, self.sets = model, bundle, sampling, sets
        self.grid = grid or square_grid(bundle.layout.patches)
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(sampling.seed)
        self.cache = Cache()
        self.rows = len(prompts)
        # Output of the last position of each row, and the time that comes next.
        self.last = torch.zeros(self.rows, model.config.width, device=self.device)
        self.time = torch.zeros(self.rows, dtype=torch.long, device=self.device)
        # Prompts that were read, and the slots that they take.
        self._prompts = [prompt.after(len(prompt)) for prompt in prompts]
        self._slots = 0
        self.read_on(prompts)

    def read_on(self, prompts: Sequence[Document]) -> None:
        """Read what these have beyond those that were read before, with which they begin. What was
        written or drawn since is forgotten: it is in `prompts`, as it is seen."""
        self.cache.keep(self._slots)
        new = []
        for before, prompt in zip(self._prompts, prompts, strict=True):
            assert (prompt.ids[: len(before)] == before.ids).all(), "another beginning"
            new.append(prompt.after(len(before)))
        if length := max(map(len, new)):
            batch = pack([[document] for document in new], length).to(self.device)
            batch = self.bundle.encode_pictures(batch)
            hidden = self.model.extend(batch, self.cache)
            counts = torch.tensor([len(document) for document in new], device=self.device)
            rows = counts.nonzero()[:, 0]
            self.last[rows] = hidden[rows, counts[rows] - 1]
        self.time = torch.tensor(
            [int(prompt.pos[-1, 0]) + 1 for prompt in prompts], device=self.device
        )
        self.spans = max(int(prompt.span.max()) for prompt in prompts) + 1
        self._prompts, self._slots = list(prompts), self.cache.length

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
            latent_loss=torch.zeros_like(time),
            # Mixed with itself, a noisy latent stays what it is.
            latent_eps=values,
            latent_place=torch.zeros(len(values), 2, dtype=torch.int32, device=self.device),
            semantic=torch.from_numpy(self.bundle.layout.no_semantic()).to(self.device),
            semantic_idx=index[:0],
            semantic_spans=[],
            source=[[0]] * rows,
        )
        return self.model.extend(batch, self.cache, commit=commit)

    def picture_pos(self) -> Int[Tensor, "rows positions 3"]:
        """pos of a picture at the present time: a position for each place and codebook."""
        repeat = max(1, len(self.bundle.vocabulary.codebooks))
        if self.bundle.layout.in_line:
            return self.line_pos(self.places * repeat)
        rows, columns = grid_places(self.grid, self.grid, repeat)
        places = torch.tensor([[0] * len(rows), rows, columns], device=self.device).T
        return places + self.time[:, None, None]

    def line_pos(self, count: int) -> Int[Tensor, "rows {count} 3"]:
        """pos of text from the present time on."""
        steps = self.time[:, None] + torch.arange(count, device=self.device)
        return steps[:, :, None].expand(-1, -1, 3)

    @property
    def given_rows(self) -> int:
        """Rows that are written or drawn."""
        return self.rows // self.sets

    @property
    def places(self) -> int:
        """Places of the picture that is drawn."""
        return self.grid[0] * self.grid[1]

    def adjustment(self) -> Float[Tensor, " codes"]:
        """Log weights of all codes, which were learnt with and must not be drawn with."""
        return self.bundle.code_weights.log().to(self.device)

    def guided(self, values: Tensor) -> Tensor:
        """Values of all sets -> those with more of what is said, and of what is shown:
        unseen + p (unsaid - unseen) + g (given - unsaid) (Brooks et al. 2023)."""
        given, *compared = values.chunk(self.sets)
        if not compared:
            return given
        unsaid, unseen = compared[0], compared[-1]
        said = self.sampling.guidance * (given - unsaid)
        return unseen + self.sampling.picture_guidance * (unsaid - unseen) + said

    def given(self, values: Tensor) -> Tensor:
        """Those of the rows that have their whole prompt."""
        return values.chunk(self.sets)[0]

    def repeated(self, values: Tensor) -> Tensor:
        """The same for all sets of rows."""
        return torch.cat([values] * self.sets)

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
