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
    NOISE,
    UNDERSTAND,
    Document,
    PackedBatch,
    pack,
)
from gristmill.model.blocks import Cache
from gristmill.model.training_setup import Reading
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


class Reader:
    """Rows of one prompt each, and what was read on from them."""

    def __init__(
        self, model: Transformer, reading: Reading, prompts: Sequence[Document], sampling: Sampling
    ) -> None:
        self.model, self.reading, self.sampling = model, reading, sampling
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
        self.segments = int(batch.seg.max()) + 1
        self.rows = len(prompts)

    def read(
        self,
        ids: Tensor,
        pos: Tensor,
        *,
        kind: int,
        route: int,
        seg: int,
        commit: bool,
        latents: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Outputs [B, S, width] of new positions: ids [B, S], pos [B, S, 3]; noisy latents
        [B, S, C] with their time."""
        rows = len(ids)
        zero = torch.zeros_like(ids)
        channels = self.reading.layout.latent_channels
        values = torch.zeros(0, channels, device=self.device)
        time, index = torch.zeros(0, device=self.device), zero.reshape(-1)[:0]
        if latents is not None:
            values = latents[0].reshape(-1, channels)
            time = torch.full((len(values),), latents[1], device=self.device)
            index = torch.arange(len(values), device=self.device)
        batch = PackedBatch(
            ids=ids, labels=zero - 100, weight=zero.float(), doc=zero.int(),
            seg=(zero + seg).int(), kind=(zero + kind).byte(), route=(zero + route).byte(),
            # Mixed with itself, a noisy latent stays what it is.
            pos=pos, lat=values, lat_idx=index, lat_t=time, lat_loss=time, lat_eps=values,
            und=torch.zeros(0, self.reading.layout.semantic_width, device=self.device),
            und_idx=index[:0], und_cu=torch.zeros(1, dtype=torch.int32, device=self.device),
            source=[[0]] * rows,
        )  # fmt: skip
        return self.model.extend(batch, self.cache, commit=commit)

    def grid_pos(self) -> Tensor:
        """pos [B, h * w * codebooks, 3] of a picture at the present time."""
        rows, columns = self.reading.layout.grid
        repeat = max(1, len(self.reading.vocabulary.codebooks))
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
        return self.reading.code_weights.log().to(self.device)

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


def write_next(reader: Reader) -> list[list[int]]:
    """Text token by token until its end."""
    vocabulary, model = reader.reading.vocabulary, reader.model
    text_end = vocabulary.text_start + vocabulary.text_size
    done = torch.zeros(reader.rows, dtype=torch.bool, device=reader.device)
    written: list[list[int]] = [[] for _ in range(reader.rows)]
    hidden = reader.last
    for _ in range(reader.sampling.longest):
        logits = model.logits(hidden, 0, text_end)
        # The grammar: text, or the end.
        logits[:, : vocabulary.text_start] = logits[:, : vocabulary.text_start].masked_fill(
            torch.arange(vocabulary.text_start, device=reader.device) != EOS, -math.inf
        )
        ids = reader.choose(logits)
        done |= ids == EOS
        if bool(done.all()):
            break
        for row, token in enumerate(ids.tolist()):
            if not done[row]:
                written[row].append(token)
        out = reader.read(
            ids[:, None], reader.line_pos(1), kind=CAUSAL, route=UNDERSTAND, seg=-1, commit=True
        )
        hidden = out[:, 0]
        reader.time = reader.time + 1
    return written


def write_masked(reader: Reader) -> list[list[int]]:
    """A block of text, the surest tokens first (low-confidence remasking, LLaDA)."""
    vocabulary, layout = reader.reading.vocabulary, reader.reading.layout
    block, text_end = layout.text_block, vocabulary.text_start + vocabulary.text_size
    ids = torch.full((reader.rows, block), MASK, device=reader.device)
    pos = reader.line_pos(block)
    banned = torch.arange(text_end, device=reader.device) < vocabulary.text_start
    banned[EOS] = False
    passes = min(reader.sampling.steps, block)
    for step in range(passes):
        hidden = reader.read(
            ids, pos, kind=FULL, route=UNDERSTAND, seg=reader.segments, commit=False
        )
        logits = reader.model.logits(hidden, 0, text_end).masked_fill(banned, -math.inf)
        sure, best = logits.softmax(dim=-1).max(dim=-1)
        sure = sure.masked_fill(ids != MASK, -1)
        count = block * (step + 1) // passes - block * step // passes
        places = sure.topk(count, dim=1).indices
        ids = ids.scatter(1, places, best.gather(1, places))
    rows: list[list[int]] = ids.tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def draw_next(reader: Reader) -> Tensor:
    """Codes in raster order, [B, places * codebooks], counted within their codebook."""
    vocabulary = reader.reading.vocabulary
    pos = reader.grid_pos()
    books = len(vocabulary.codebooks)
    hidden = reader.last
    start, adjust = vocabulary.code_starts[0], reader.adjustment()
    codes = []
    for place in range(pos.shape[1]):
        book = place % books
        first, size = vocabulary.code_starts[book], vocabulary.codebooks[book]
        logits = reader.model.logits(hidden, first, first + size)
        chosen = reader.choose(reader.guided(logits) - adjust[first - start : first - start + size])
        codes.append(chosen)
        if place + 1 == pos.shape[1]:
            break
        out = reader.read(
            reader.doubled(chosen + first)[:, None], pos[:, place : place + 1],
            kind=CAUSAL, route=GENERATE, seg=reader.segments, commit=True,
        )  # fmt: skip
        hidden = out[:, 0]
    return torch.stack(codes, dim=1)


def draw_masked(reader: Reader) -> Tensor:
    """Codes unmasked in passes, the surest first, by the cosine schedule (MaskGIT)."""
    vocabulary, sampling = reader.reading.vocabulary, reader.sampling
    pos = reader.grid_pos()
    count, books = pos.shape[1], len(vocabulary.codebooks)
    starts = torch.tensor(vocabulary.code_starts, device=reader.device).repeat(count // books)
    rows = reader.rows if sampling.guidance == 1 else reader.rows // 2
    ids = torch.full((rows, count), MASK, device=reader.device)
    last = vocabulary.code_starts[-1] + vocabulary.codebooks[-1]
    ranges = torch.arange(vocabulary.code_starts[0], last, device=reader.device)
    ends = starts + torch.tensor(vocabulary.codebooks, device=reader.device).repeat(count // books)
    outside = (ranges < starts[:, None]) | (ranges >= ends[:, None])
    for step in range(sampling.steps):
        hidden = reader.read(
            reader.doubled(ids), pos, kind=FULL, route=GENERATE, seg=reader.segments, commit=False
        )
        logits = reader.guided(reader.model.logits(hidden, vocabulary.code_starts[0], last))
        logits = (logits - reader.adjustment()).masked_fill(outside, -math.inf)
        chosen = reader.choose(logits)
        sure = logits.log_softmax(dim=-1).gather(2, chosen[:, :, None])[:, :, 0]
        share = (step + 1) / sampling.steps
        noise = torch.rand(sure.shape, generator=reader.generator, device=reader.device)
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


def draw_flow(reader: Reader) -> Tensor:
    """Latents [B, places, channels] by integrating velocities of positions in place."""
    paradigm = reader.reading.paradigm
    kind = NOISE if paradigm.clean_copy else FULL
    rows, columns = reader.reading.layout.grid
    pos = reader.grid_pos()
    ids = torch.full((reader.rows, rows * columns), -1, device=reader.device)

    def velocity(x: Tensor, time: float) -> Tensor:
        hidden = reader.read(
            ids, pos, kind=kind, route=GENERATE, seg=reader.segments, commit=False,
            latents=(x, time),
        )  # fmt: skip
        return reader.model.lat_out(hidden).float()  # type: ignore[no-any-return]

    return _integrate(reader, velocity)


def draw_query(reader: Reader) -> Tensor:
    """Latents by the flow head on what the queries found out, which is found out once."""
    layout, vocabulary = reader.reading.layout, reader.reading.vocabulary
    count, places = layout.queries, layout.grid[0] * layout.grid[1]
    queries = torch.arange(count, device=reader.device)
    ids = (vocabulary.query_start + queries).expand(reader.rows, count)
    pos = reader.time[:, None, None] * _axis(reader.device) + torch.stack(
        [torch.zeros_like(queries), torch.zeros_like(queries), queries], dim=1
    )
    hidden = reader.read(
        ids, pos, kind=FULL, route=GENERATE, seg=reader.segments, commit=False
    ).reshape(reader.rows * count, -1)
    row = torch.arange(reader.rows, device=reader.device)
    bound = torch.arange(places, device=reader.device) * count // places
    index = (row[:, None] * count + bound).reshape(-1)
    # Rows are told apart by their number here: there are no marks between them.
    doc = row.repeat_interleave(places)

    def velocity(x: Tensor, time: float) -> Tensor:
        times = torch.full((len(index),), time, device=reader.device)
        flat = x.reshape(len(index), -1)
        out = reader.model.flow_head.packed(hidden, index, flat, times, doc)
        return out.view(reader.rows, places, -1).float()

    return _integrate(reader, velocity)


def _integrate(reader: Reader, velocity: Callable[[Tensor, float], Tensor]) -> Tensor:
    """From noise at time 1 to latents at time 0, in steps that are shifted as in training."""
    layout, sampling = reader.reading.layout, reader.sampling
    rows = reader.rows if sampling.guidance == 1 else reader.rows // 2
    shape = (rows, layout.grid[0] * layout.grid[1], layout.latent_channels)
    x = torch.randn(shape, generator=reader.generator, device=reader.device)
    shift = layout.time_shift
    times = [1 - i / sampling.steps for i in range(sampling.steps + 1)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]

    def guided(x: Tensor, time: float) -> Tensor:
        both = velocity(reader.doubled(x), time)
        if sampling.guidance == 1:
            return both
        if sampling.guidance_to <= time <= sampling.guidance_from:
            return reader.guided(both)
        return both.chunk(2)[0]

    for now, then in itertools.pairwise(times):
        slope = guided(x, now)
        if sampling.solver == "heun" and then > 0:
            slope = (slope + guided(x + (then - now) * slope, then)) / 2
        x = x + (then - now) * slope
    return x


DRAW: dict[str, Callable[[Reader], Tensor]] = {
    "next": draw_next, "masked": draw_masked, "flow": draw_flow, "query": draw_query,
}  # fmt: skip
WRITE: dict[str, Callable[[Reader], list[list[int]]]] = {
    "next": write_next, "masked": write_masked,
}  # fmt: skip


def to_pictures(reading: Reading, drawn: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What was drawn, decoded: uint8 RGB [n, side, side, 3]."""
    from gristmill.model.codecs.base import to_bytes

    grid = drawn.cpu().view(len(drawn), *reading.layout.grid, -1)
    with torch.no_grad():
        return to_bytes(reading.codec.decode(grid)).numpy()
