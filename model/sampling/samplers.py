"""Samplers: text and codes one after the other, codes and text unmasked in any order, flows."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gristmill.model.documents.batch import CAUSAL, GENERATE, NOISE, UNDERSTAND
from gristmill.model.documents.document_builder import bind_queries
from gristmill.model.documents.vocabulary import IMAGE, MASK
from gristmill.model.network.flow_head import BoundLatents
from gristmill.model.sampling.decoding import DecodingSession


def text_steps(session: DecodingSession, *, opens: bool = False) -> Iterator[list[int | None]]:
    """Text token by token: at each step an id for each row, None for a row that has ended. With
    `opens`, a row may end by opening a picture, and `<image>` is its last id."""
    ends = torch.tensor(session.bundle.vocabulary.ends, device=session.device)
    banned = _no_text(session, opens)
    done = torch.zeros(session.given_rows, dtype=torch.bool, device=session.device)
    hidden = session.given(session.last)
    for step in range(session.sampling.longest):
        logits = session.model.logits(hidden, 0, len(banned))
        ids = session.choose(logits.masked_fill(banned, -math.inf))
        silent = done | torch.isin(ids, ends)
        done = silent | (ids == IMAGE)
        if not bool(silent.all()):
            pairs = zip(ids.tolist(), silent.tolist(), strict=True)
            yield [None if quiet else i for i, quiet in pairs]
        if bool(done.all()) or step + 1 == session.sampling.longest:
            return
        out = session.read(
            session.repeated(ids)[:, None], session.line_pos(1),
            attn_mode=CAUSAL, expert=UNDERSTAND, span=-1, commit=True,
        )  # fmt: skip
        hidden = session.given(out[:, 0])
        session.time = session.time + 1


def generate_text_ar(session: DecodingSession, *, opens: bool = False) -> list[list[int]]:
    """Text token by token until its end."""
    steps = list(text_steps(session, opens=opens))
    return [[i for i in row if i is not None] for row in zip(*steps, strict=True)] or [
        [] for _ in range(session.given_rows)
    ]


def text_blocks(session: DecodingSession, *, opens: bool = False) -> Iterator[list[list[int]]]:
    """Text block by block, each unmasked with the surest tokens first (low-confidence remasking,
    LLaDA), until one holds an end: at each step what is new of each row."""
    block, ends = session.bundle.layout.text_block, session.bundle.vocabulary.ends
    banned = _no_text(session, opens)
    done = [False] * session.given_rows
    for start in range(0, session.sampling.longest, block):
        ids = _unmasked_block(session, block, banned)
        new: list[list[int]] = []
        for row, tokens in enumerate(ids.tolist()):
            at = next((i for i, token in enumerate(tokens) if token in (*ends, IMAGE)), block)
            said = [token for token in tokens[: at + 1] if token not in ends]
            new.append([] if done[row] else said[: session.sampling.longest - start])
            done[row] = done[row] or at < block
        yield new
        if all(done) or start + block >= session.sampling.longest:
            return
        # What follows sees a clean copy, as it sees any text.
        session.read(
            session.repeated(ids), session.line_pos(block), attn_mode=CAUSAL, expert=UNDERSTAND,
            span=-1, commit=True,
        )  # fmt: skip
        session.time = session.time + block


def generate_text_masked(session: DecodingSession, *, opens: bool = False) -> list[list[int]]:
    """Text block by block until its end."""
    blocks = text_blocks(session, opens=opens)
    return [list(itertools.chain(*row)) for row in zip(*blocks, strict=True)]


def _unmasked_block(session: DecodingSession, block: int, banned: Tensor) -> Tensor:
    ids = torch.full((session.given_rows, block), MASK, device=session.device)
    pos = session.line_pos(block)
    passes = min(session.sampling.steps, block)
    for step in range(passes):
        hidden = session.read(
            session.repeated(ids), pos, attn_mode=NOISE, expert=UNDERSTAND, span=session.spans,
            commit=False,
        )  # fmt: skip
        logits = session.model.logits(session.given(hidden), 0, len(banned))
        sure, best = logits.masked_fill(banned, -math.inf).softmax(dim=-1).max(dim=-1)
        sure = sure.masked_fill(ids != MASK, -1)
        count = block * (step + 1) // passes - block * step // passes
        places = sure.topk(count, dim=1).indices
        ids = ids.scatter(1, places, best.gather(1, places))
    return ids


def _no_text(session: DecodingSession, opens: bool) -> Bool[Tensor, " ids"]:
    """The grammar: what is neither text nor an end, of the ids up to the last of text."""
    vocabulary = session.bundle.vocabulary
    text_end = vocabulary.text_start + vocabulary.text_size
    banned = torch.arange(text_end, device=session.device) < vocabulary.text_start
    banned[list(vocabulary.ends)] = False
    banned[IMAGE] = not opens
    return banned


def generate_image_ar(session: DecodingSession) -> Int64[Tensor, "rows positions"]:
    """Codes in raster order, those of a place one after the other, counted within their
    codebook."""
    vocabulary = session.bundle.vocabulary
    pos = session.picture_pos()
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
            session.repeated(chosen + first)[:, None], pos[:, place : place + 1],
            attn_mode=session.bundle.paradigm.drawn_attn_mode, expert=GENERATE,
            span=session.spans, commit=True,
        )  # fmt: skip
        hidden = out[:, 0]
    return torch.stack(codes, dim=1)


def generate_image_masked(session: DecodingSession) -> Int64[Tensor, "rows positions"]:
    """Codes unmasked in passes, the surest first, by the cosine schedule (MaskGIT)."""
    vocabulary, sampling = session.bundle.vocabulary, session.sampling
    pos = session.picture_pos()
    count, books = pos.shape[1], len(vocabulary.codebooks)
    starts = torch.tensor(vocabulary.code_starts, device=session.device).repeat(count // books)
    ids = torch.full((session.given_rows, count), MASK, device=session.device)
    last = vocabulary.code_starts[-1] + vocabulary.codebooks[-1]
    ranges = torch.arange(vocabulary.code_starts[0], last, device=session.device)
    ends = starts + torch.tensor(vocabulary.codebooks, device=session.device).repeat(count // books)
    outside = (ranges < starts[:, None]) | (ranges >= ends[:, None])
    for step in range(sampling.steps):
        hidden = session.read(
            session.repeated(ids),
            pos,
            attn_mode=NOISE,
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


def generate_image_flow(session: DecodingSession) -> Float[Tensor, "rows places channels"]:
    """Latents by integrating velocities of positions in place."""
    pos = session.picture_pos()
    ids = torch.full((session.rows, session.places), -1, device=session.device)

    def velocity(x: Tensor, time: float) -> Tensor:
        hidden = session.read(
            ids, pos, attn_mode=NOISE, expert=GENERATE, span=session.spans, commit=False,
            latents=(x, time),
        )  # fmt: skip
        return session.model.latent_out(hidden).float()  # type: ignore[no-any-return]

    return _integrate(session, velocity, session.places)


def generate_image_next_latent(
    session: DecodingSession,
) -> Float[Tensor, "rows places channels"]:
    """Latents in raster order, each by a flow of its own from the output of the position before
    it."""
    pos = session.picture_pos()
    ids = torch.full((session.rows, 1), -1, device=session.device)
    hidden, drawn = session.last, []
    for place in range(session.places):
        velocity = functools.partial(_next_velocity, session, hidden)
        drawn.append(_integrate(session, velocity, 1, shift=1.0))
        if place + 1 == session.places:
            break
        out = session.read(
            ids, pos[:, place : place + 1], attn_mode=session.bundle.paradigm.drawn_attn_mode,
            expert=GENERATE, span=session.spans, commit=True,
            latents=(session.repeated(drawn[-1]), 0.0),
        )  # fmt: skip
        hidden = out[:, 0]
    return torch.cat(drawn, dim=1)


def _next_velocity(session: DecodingSession, hidden: Tensor, x: Tensor, time: float) -> Tensor:
    times = torch.full((len(x),), time, device=session.device)
    velocity: Tensor = session.model.token_head(hidden, x[:, 0], times)
    return velocity.float()[:, None]


def generate_image_query(session: DecodingSession) -> Float[Tensor, "rows places channels"]:
    """Latents by the flow head on what the queries found out, which is found out once."""
    layout, vocabulary = session.bundle.layout, session.bundle.vocabulary
    places = session.places
    count = layout.queries(places)
    ids = vocabulary.query_start + torch.arange(count, device=session.device)
    ids = ids.expand(session.rows, count)
    nearest, first = bind_queries(places, count)
    pos = session.picture_pos()[:, first]
    hidden = session.read(
        ids, pos, attn_mode=NOISE, expert=GENERATE, span=session.spans, commit=False
    ).reshape(session.rows * count, -1)
    row = torch.arange(session.rows, device=session.device)
    bound = torch.from_numpy(nearest).to(session.device)
    index = (row[:, None] * count + bound).reshape(-1)
    # Rows are told apart by their number here: nothing lies between them.
    doc = row.repeat_interleave(places)
    grid = [torch.arange(side, device=session.device) for side in session.grid]
    spans = BoundLatents.of(index, doc)
    place = torch.cartesian_prod(*grid).repeat(session.rows, 1)

    def velocity(x: Tensor, time: float) -> Tensor:
        times = torch.full((len(index),), time, device=session.device)
        flat = x.reshape(len(index), -1)
        out = session.model.flow_head.packed(hidden, spans, flat, times, place)
        return out.view(session.rows, places, -1).float()

    return _integrate(session, velocity, places)


def _integrate(
    session: DecodingSession,
    velocity: Callable[[Tensor, float], Tensor],
    places: int,
    shift: float | None = None,
) -> Tensor:
    """From noise at time 1 to latents at time 0, in steps that are shifted as in training."""
    layout, sampling = session.bundle.layout, session.sampling
    shape = (session.given_rows, places, layout.latent_channels)
    x = torch.randn(shape, generator=session.generator, device=session.device)
    shift = layout.shift(places) if shift is None else shift
    times = [1 - i / sampling.steps for i in range(sampling.steps + 1)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]

    def guided(x: Tensor, time: float) -> Tensor:
        all_sets = velocity(session.repeated(x), time)
        if sampling.guidance_to <= time <= sampling.guidance_from:
            return session.guided(all_sets)
        return session.given(all_sets)

    for now, then in itertools.pairwise(times):
        slope = guided(x, now)
        if sampling.solver == "heun" and then > 0:
            slope = (slope + guided(x + (then - now) * slope, then)) / 2
        x = x + (then - now) * slope
    return x


IMAGE_SAMPLERS: dict[str, Callable[[DecodingSession], Tensor]] = {
    "next": generate_image_ar,
    "next-latent": generate_image_next_latent,
    "masked": generate_image_masked,
    "flow": generate_image_flow,
    "query": generate_image_query,
}
TEXT_SAMPLERS: dict[str, Callable[..., list[list[int]]]] = {
    "next": generate_text_ar,
    "masked": generate_text_masked,
}
