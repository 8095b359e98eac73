"""Samplers: text and codes one after the other, codes and text unmasked in any order, flows.

All of them read on from one cache. Guidance (Ho & Salimans 2022) doubles the rows: the first half
has its prompt, the second has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.batch import (
    CAUSAL,
    FULL,
    GENERATE,
    IGNORE,
    NOISE,
    UNDERSTAND,
    Document,
    PackedBatch,
    pack,
)
from gristmill.model.blocks import Cache
from gristmill.model.training_setup import ModelBundle
from gristmill.model.transformer import Transformer
from gristmill.model.vocabulary import EOS, MASK


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
    ) -> None:
        self.model, self.bundle, self.sampling = model, bundle, sampling
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(sampling.seed)
        length = max(len(prompt) for prompt in prompts)
        batch = pack([[prompt] for prompt in prompts], length).to(self.device)
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
        ids: Tensor,
        pos: Tensor,
        *,
        attn_mode: int,
        expert: int,
        span: int,
        commit: bool,
        latents: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Outputs [B, S, width] of new positions: ids [B, S], pos [B, S, 3]; noisy latents
        [B, S, C] with their time."""
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
            pos=pos,
            latent=values,
            latent_idx=index,
            latent_t=time,
            latent_loss=time,
            # Mixed with itself, a noisy latent stays what it is.
            latent_eps=values,
            semantic=torch.zeros(0, self.bundle.layout.semantic_width, device=self.device),
            semantic_idx=index[:0],
            semantic_cu_seqlens=torch.zeros(1, dtype=torch.int32, device=self.device),
            source=[[0]] * rows,
        )
        return self.model.extend(batch, self.cache, commit=commit)

    def grid_pos(self) -> Tensor:
        """pos [B, h * w * codebooks, 3] of a picture at the present time."""
        rows, columns = self.bundle.layout.grid
        repeat = max(1, len(self.bundle.vocabulary.codebooks))
        y, x = torch.meshgrid(
            torch.arange(rows, device=self.device),
            torch.arange(columns, device=self.device),
            indexing="ij",
        )
        places = torch.stack([torch.zeros_like(y), y, x], dim=-1).reshape(-1, 3)
        places = places.repeat_interleave(repeat, dim=0)
        return places + self.time[:, None, None] * _axis(self.device)

    def line_pos(self, count: int) -> Tensor:
        """pos [B, count, 3] of text from the present time on."""
        steps = self.time[:, None] + torch.arange(count, device=self.device)
        return steps[:, :, None] * _axis(self.device)

    def adjustment(self) -> Tensor:
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

    def choose(self, logits: Tensor) -> Tensor:
        """[..., V] -> [...]: ids by temperature and top-k."""
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits / self.sampling.temperature
        if self.sampling.top_k:
            least = logits.topk(min(self.sampling.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        flat = logits.softmax(dim=-1).reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(flat, 1, generator=self.generator)
        return drawn.view(logits.shape[:-1])


def _axis(device: torch.device) -> Tensor:
    return torch.tensor([1, 0, 0], device=device)


def generate_text_ar(session: DecodingSession) -> list[list[int]]:
    """Text token by token until its end."""
    vocabulary, model = session.bundle.vocabulary, session.model
    text_end = vocabulary.text_start + vocabulary.text_size
    done = torch.zeros(session.rows, dtype=torch.bool, device=session.device)
    written: list[list[int]] = [[] for _ in range(session.rows)]
    hidden = session.last
    for _ in range(session.sampling.longest):
        logits = model.logits(hidden, 0, text_end)
        # The grammar: text, or the end.
        logits[:, : vocabulary.text_start] = logits[:, : vocabulary.text_start].masked_fill(
            torch.arange(vocabulary.text_start, device=session.device) != EOS, -math.inf
        )
        ids = session.choose(logits)
        done |= ids == EOS
        if bool(done.all()):
            break
        for row, token in enumerate(ids.tolist()):
            if not done[row]:
                written[row].append(token)
        out = session.read(
            ids[:, None],
            session.line_pos(1),
            attn_mode=CAUSAL,
            expert=UNDERSTAND,
            span=-1,
            commit=True,
        )
        hidden = out[:, 0]
        session.time = session.time + 1
    return written


def generate_text_masked(session: DecodingSession) -> list[list[int]]:
    """A block of text, the surest tokens first (low-confidence remasking, LLaDA)."""
    vocabulary, layout = session.bundle.vocabulary, session.bundle.layout
    block, text_end = layout.text_block, vocabulary.text_start + vocabulary.text_size
    ids = torch.full((session.rows, block), MASK, device=session.device)
    pos = session.line_pos(block)
    banned = torch.arange(text_end, device=session.device) < vocabulary.text_start
    banned[EOS] = False
    passes = min(session.sampling.steps, block)
    for step in range(passes):
        hidden = session.read(
            ids, pos, attn_mode=FULL, expert=UNDERSTAND, span=session.spans, commit=False
        )
        logits = session.model.logits(hidden, 0, text_end).masked_fill(banned, -math.inf)
        sure, best = logits.softmax(dim=-1).max(dim=-1)
        sure = sure.masked_fill(ids != MASK, -1)
        count = block * (step + 1) // passes - block * step // passes
        places = sure.topk(count, dim=1).indices
        ids = ids.scatter(1, places, best.gather(1, places))
    rows: list[list[int]] = ids.tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def generate_image_ar(session: DecodingSession) -> Tensor:
    """Codes in raster order, [B, places * codebooks], counted within their codebook."""
    vocabulary = session.bundle.vocabulary
    pos = session.grid_pos()
    books = len(vocabulary.codebooks)
    hidden = session.last
    start, adjust = vocabulary.code_starts[0], session.adjustment()
    codes = []
    for place in range(pos.shape[1]):
        book = place % books
        first, size = vocabulary.code_starts[book], vocabulary.codebooks[book]
        logits = session.model.logits(hidden, first, first + size)
        chosen = session.choose(
            session.guided(logits) - adjust[first - start : first - start + size]
        )
        codes.append(chosen)
        if place + 1 == pos.shape[1]:
            break
        out = session.read(
            session.doubled(chosen + first)[:, None], pos[:, place : place + 1],
            attn_mode=CAUSAL, expert=GENERATE, span=session.spans, commit=True,
        )  # fmt: skip
        hidden = out[:, 0]
    return torch.stack(codes, dim=1)


def generate_image_masked(session: DecodingSession) -> Tensor:
    """Codes unmasked in passes, the surest first, by the cosine schedule (MaskGIT)."""
    vocabulary, sampling = session.bundle.vocabulary, session.sampling
    pos = session.grid_pos()
    count, books = pos.shape[1], len(vocabulary.codebooks)
    starts = torch.tensor(vocabulary.code_starts, device=session.device).repeat(count // books)
    rows = session.rows if sampling.guidance == 1 else session.rows // 2
    ids = torch.full((rows, count), MASK, device=session.device)
    last = vocabulary.code_starts[-1] + vocabulary.codebooks[-1]
    ranges = torch.arange(vocabulary.code_starts[0], last, device=session.device)
    ends = starts + torch.tensor(vocabulary.codebooks, device=session.device).repeat(count // books)
    outside = (ranges < starts[:, None]) | (ranges >= ends[:, None])
    for step in range(sampling.steps):
        hidden = session.read(
            session.doubled(ids),
            pos,
            attn_mode=FULL,
            expert=GENERATE,
            span=session.spans,
            commit=False,
        )
        logits = session.guided(session.model.logits(hidden, vocabulary.code_starts[0], last))
        logits = (logits - session.adjustment()).masked_fill(outside, -math.inf)
        chosen = session.choose(logits)
        sure = logits.log_softmax(dim=-1).gather(2, chosen[:, :, None])[:, :, 0]
        share = (step + 1) / sampling.steps
        noise = torch.rand(sure.shape, generator=session.generator, device=session.device)
        gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
        sure = sure + sampling.choice_temperature * (1 - share) * gumbel
        known = ids != MASK
        sure = sure.masked_fill(known, math.inf)
        ids = torch.where(known, ids, chosen + vocabulary.code_starts[0])
        hidden_count = math.floor(count * math.cos(math.pi / 2 * share))
        if hidden_count:
            worst = sure.topk(hidden_count, dim=1, largest=False).indices
            ids = ids.scatter(1, worst, MASK)
    return ids - starts


def generate_image_flow(session: DecodingSession) -> Tensor:
    """Latents [B, places, channels] by integrating velocities of positions in place."""
    paradigm = session.bundle.paradigm
    attn_mode = NOISE if paradigm.clean_copy else FULL
    rows, columns = session.bundle.layout.grid
    pos = session.grid_pos()
    ids = torch.full((session.rows, rows * columns), -1, device=session.device)

    def velocity(x: Tensor, time: float) -> Tensor:
        hidden = session.read(
            ids, pos, attn_mode=attn_mode, expert=GENERATE, span=session.spans, commit=False,
            latents=(x, time),
        )  # fmt: skip
        return session.model.latent_out(hidden).float()  # type: ignore[no-any-return]

    return _integrate(session, velocity)


def generate_image_query(session: DecodingSession) -> Tensor:
    """Latents by the flow head on what the queries found out, which is found out once."""
    layout, vocabulary = session.bundle.layout, session.bundle.vocabulary
    count, places = layout.queries, layout.grid[0] * layout.grid[1]
    queries = torch.arange(count, device=session.device)
    ids = (vocabulary.query_start + queries).expand(session.rows, count)
    pos = session.time[:, None, None] * _axis(session.device) + torch.stack(
        [torch.zeros_like(queries), torch.zeros_like(queries), queries], dim=1
    )
    hidden = session.read(
        ids, pos, attn_mode=FULL, expert=GENERATE, span=session.spans, commit=False
    ).reshape(session.rows * count, -1)
    row = torch.arange(session.rows, device=session.device)
    bound = torch.arange(places, device=session.device) * count // places
    index = (row[:, None] * count + bound).reshape(-1)
    # Rows are told apart by their number here: nothing lies between them.
    doc = row.repeat_interleave(places)

    def velocity(x: Tensor, time: float) -> Tensor:
        times = torch.full((len(index),), time, device=session.device)
        flat = x.reshape(len(index), -1)
        out = session.model.flow_head.packed(hidden, index, flat, times, doc)
        return out.view(session.rows, places, -1).float()

    return _integrate(session, velocity)


def _integrate(session: DecodingSession, velocity: Callable[[Tensor, float], Tensor]) -> Tensor:
    """From noise at time 1 to latents at time 0, in steps that are shifted as in training."""
    layout, sampling = session.bundle.layout, session.sampling
    rows = session.rows if sampling.guidance == 1 else session.rows // 2
    shape = (rows, layout.grid[0] * layout.grid[1], layout.latent_channels)
    x = torch.randn(shape, generator=session.generator, device=session.device)
    shift = layout.time_shift
    times = [1 - i / sampling.steps for i in range(sampling.steps + 1)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]

    def guided(x: Tensor, time: float) -> Tensor:
        both = velocity(session.doubled(x), time)
        if sampling.guidance == 1:
            return both
        if sampling.guidance_to <= time <= sampling.guidance_from:
            return session.guided(both)
        return both.chunk(2)[0]

    for now, then in itertools.pairwise(times):
        slope = guided(x, now)
        if sampling.solver == "heun" and then > 0:
            slope = (slope + guided(x + (then - now) * slope, then)) / 2
        x = x + (then - now) * slope
    return x


IMAGE_SAMPLERS: dict[str, Callable[[DecodingSession], Tensor]] = {
    "next": generate_image_ar,
    "masked": generate_image_masked,
    "flow": generate_image_flow,
    "query": generate_image_query,
}
TEXT_SAMPLERS: dict[str, Callable[[DecodingSession], list[list[int]]]] = {
    "next": generate_text_ar,
    "masked": generate_text_masked,
}


def to_pictures(bundle: ModelBundle, drawn: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What was drawn, decoded: uint8 RGB [n, side, side, 3]."""
    from gristmill.model.codecs.base import to_bytes

    grid = drawn.cpu().view(len(drawn), *bundle.layout.grid, -1)
    with torch.no_grad():
        return to_bytes(bundle.codec.decode(grid)).numpy()
