"""Writes documents: texts and pictures, laid out as a paradigm wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.model.batch import (
    CAUSAL,
    FULL,
    GENERATE,
    IGNORE,
    NOISE,
    UNDERSTAND,
    Array,
    Document,
)
from gristmill.model.corruption import draw_noise, mask_tokens
from gristmill.model.document_builder import Columns, bind_queries
from gristmill.model.paradigms import Paradigm
from gristmill.model.picture_grid import PictureGrid
from gristmill.model.segments import Content, ImageSegment, Segment, TextSegment
from gristmill.model.vocabulary import IMAGE, IMAGE_END, MASK, PAD, Vocabulary


@dataclass(frozen=True, kw_only=True)
class DocumentLayout:
    """What fixes how many positions a picture takes, and how noise and masks are drawn."""

    # Most places of codes or latents of one picture; latents to a query.
    patches: int
    latents_per_query: int = 4
    latent_channels: int = 0
    semantic_width: int = 0
    # Positions of an answer that is unmasked in any order.
    text_block: int = 24
    # Time t = sigmoid(normal(mean, 1)), then shift * t / (1 + (shift - 1) t) (Esser et al. 2024),
    # where the shift of a picture grows with the root of its places: this is that of `patches`.
    time_mean: float = 0.0
    time_shift: float = 1.0
    # Weight of text that is learnt, against that of pictures.
    text_weight: float = 3.0
    # Power by which rare codes count more; see `codecs.balancing_weights`.
    code_balance: float = 0.5

    def queries(self, places: int) -> int:
        """Queries of a picture of so many places."""
        return math.ceil(places / self.latents_per_query)

    def shift(self, places: int) -> float:
        """Shift of the times of a picture of so many places: more of them show through as much
        noise (Esser et al. 2024, section 5.3.2)."""
        return self.time_shift * math.sqrt(places / self.patches)


class DocumentWriter:
    """Lays segments out as a paradigm's documents."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        paradigm: Paradigm,
        layout: DocumentLayout,
        code_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """`code_weights`: one for each code of all codebooks; all alike if there are none."""
        self.vocabulary, self.paradigm, self.layout = vocabulary, paradigm, layout
        self._code_weights = code_weights

    def _balance(self, content: Content, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights of a picture's codes, given as ids; one where the step will tell them."""
        if self._code_weights is None or content.codes is None:
            return np.ones(len(codes), np.float32)
        return self._code_weights[codes - self.vocabulary.code_starts[0]]

    def length(self, segments: Sequence[Segment], grids: Sequence[PictureGrid] = ()) -> int:
        """Positions of the document, from the grids of its pictures alone."""
        total = 1
        for place, segment in enumerate(segments):
            follows = place + 1 < len(segments)
            if isinstance(segment, ImageSegment):
                grid = grids[segment.number]
                total += 4 + self._image_length(grid, segment.is_target, follows)
            else:
                total += self._text_length(segment)
        return total

    def _text_length(self, segment: TextSegment) -> int:
        special = segment.special_token is not None
        if segment.is_target and self.paradigm.text_objective == "masked":
            return special + self.layout.text_block
        return special + len(self.vocabulary.encode(segment.text)) + segment.ends

    def _image_length(self, grid: PictureGrid, is_target: bool, follows: bool) -> int:
        places = grid.places
        codes = places * max(1, len(self.vocabulary.codebooks))
        semantic = grid.semantic[0] * grid.semantic[1]
        sizes = {"codes": codes, "latents": places, "semantic": semantic}
        seen = sum(sizes[way] for way in self.paradigm.image_inputs)
        if not is_target:
            return seen
        drawn = {
            "next": codes, "masked": codes, "flow": places,
            "query": self.layout.queries(places),
        }[self.paradigm.image_objective]  # fmt: skip
        return drawn + (seen if self._needs_copy(follows) else 0)

    def _needs_copy(self, follows: bool) -> bool:
        """Whether a drawn picture must be repeated as it is seen: what follows cannot use noise,
        masks or queries."""
        unseen = (
            self.paradigm.image_objective == "next" and "codes" not in self.paradigm.image_inputs
        )
        mixed = self.paradigm.image_objective in ("masked", "query")
        return follows and (self.paradigm.clean_copy or mixed or unseen)

    def write(
        self,
        segments: Sequence[Segment],
        pictures: Sequence[Content],
        rng: np.random.Generator,
        *,
        source: int = 0,
        weight: float = 1.0,
        prompt: bool = False,
    ) -> Document:
        """One document. Everything random (masks, times, noise) is drawn from `rng`.

        With `prompt`, the last segment is only opened: what a model is to write or draw comes next.
        """
        out = Columns()
        self._plain(out, [self.vocabulary.bos], UNDERSTAND)
        for place, segment in enumerate(segments):
            follows = place + 1 < len(segments)
            if prompt and not follows:
                self._open(out, segment, pictures)
            elif isinstance(segment, ImageSegment):
                self._image(out, segment, pictures[segment.number], rng, weight, follows)
            elif segment.is_target and self.paradigm.text_objective == "masked":
                self._masked_text(out, segment, rng, weight * self.layout.text_weight)
            else:
                self._text(out, segment, weight * self.layout.text_weight)
        return self._finish(out, source)

    def _open(self, out: Columns, segment: Segment, pictures: Sequence[Content]) -> None:
        """The special tokens before what is to come."""
        if isinstance(segment, ImageSegment):
            sides = pictures[segment.number].grid.image
            ids = [IMAGE, *(self.vocabulary.side(count) for count in sides)]
            self._plain(out, ids, GENERATE)
        elif segment.special_token is not None:
            self._plain(out, [segment.special_token], UNDERSTAND)

    def blank(
        self, segments: Sequence[Segment], grids: Sequence[PictureGrid] = (), *, source: int = 0
    ) -> Document:
        """As many positions as a document of these segments has, of padding: nothing is learnt at
        them, and the documents beside it stand where they would."""
        out = Columns()
        self._plain(out, [PAD] * self.length(segments, grids), UNDERSTAND)
        return self._finish(out, source)

    def nothing(self) -> Document:
        """A document of no positions, for rows that are padding alone."""
        return self._finish(Columns(), 0)

    def _plain(
        self,
        out: Columns,
        ids: Sequence[int],
        expert: int,
        labels: Sequence[int] = (),
        weight: Sequence[float] = (),
    ) -> None:
        """Causal positions of text, each a step of time; without `labels` they learn nothing."""
        count = len(ids)
        out.add(
            ids, labels or [IGNORE] * count, weight or [0.0] * count,
            span=-1, attn_mode=CAUSAL, expert=expert,
        )  # fmt: skip
        out.stand_in_line(count)
        out.after_text = False

    def _text(self, out: Columns, segment: TextSegment, weight: float) -> None:
        special = [] if segment.special_token is None else [segment.special_token]
        text = self.vocabulary.encode(segment.text) + (
            [self.vocabulary.eos] if segment.ends else []
        )
        if segment.is_target and text:
            each = weight / math.sqrt(len(text))
            labels, per = [*text, IGNORE], [each] * len(text) + [0.0]
            if not special:
                # The position before emits the first id.
                out.emit(labels.pop(0), per.pop(0))
            self._plain(out, [*special, *text], UNDERSTAND, labels, per)
        else:
            self._plain(out, [*special, *text], UNDERSTAND)
        out.after_text = segment.is_target and bool(text) and not segment.ends

    def _masked_text(
        self, out: Columns, segment: TextSegment, rng: np.random.Generator, weight: float
    ) -> None:
        """A block that is unmasked in any order; ends fill it up (LLaDA, Nie et al. 2025)."""
        if segment.special_token is not None:
            self._plain(out, [segment.special_token], UNDERSTAND)
        block = self.layout.text_block
        text = (self.vocabulary.encode(segment.text) + [self.vocabulary.eos] * block)[:block]
        ids, labels, per = mask_tokens(np.array(text), rng, weight, share=rng.uniform())
        self._span(out, ids, FULL, UNDERSTAND, labels.tolist(), per.tolist())
        out.stand_in_line(block)

    def _span(
        self,
        out: Columns,
        ids: NDArray[np.int64],
        attn_mode: int,
        expert: int,
        labels: Sequence[int] = (),
        weight: Sequence[float] = (),
    ) -> None:
        """Positions of one span, all but their `pos`; without `labels` they learn nothing."""
        count = len(ids)
        out.add(
            ids.tolist(), labels or [IGNORE] * count, weight or [0.0] * count,
            span=out.spans, attn_mode=attn_mode, expert=expert,
        )  # fmt: skip
        out.spans += 1

    @property
    def _has_frame(self) -> bool:
        """Whether semantic patches stand where the codes or latents beside them do."""
        return bool({"codes", "latents"} & set(self.paradigm.image_inputs))

    def _extent(self, grid: PictureGrid) -> int:
        """What follows a picture begins behind its largest position, the same whether the picture
        was drawn or given."""
        return max(*grid.image, *((0, 0) if self._has_frame else grid.semantic))

    def _code_pos(self, out: Columns, content: Content) -> None:
        """Codes of a place share its position."""
        out.stand_in_grid(content.grid.image, repeat=len(self.vocabulary.codebooks))

    def _image(
        self,
        out: Columns,
        segment: ImageSegment,
        content: Content,
        rng: np.random.Generator,
        weight: float,
        follows: bool,
    ) -> None:
        expert = GENERATE if segment.is_target else UNDERSTAND
        sides = [self.vocabulary.side(count) for count in content.grid.image]
        if segment.is_target and out.after_text:
            out.emit(IMAGE, weight / 10)
        if segment.is_target:
            per = [weight / 10, weight / 10, 0.0]
            self._plain(out, [IMAGE, *sides], expert, [*sides, IGNORE], per)
            {
                "next": self._draw_next,
                "masked": self._draw_masked,
                "flow": self._draw_flow,
                "query": self._draw_query,
            }[self.paradigm.image_objective](out, content, rng, weight)
        else:
            self._plain(out, [IMAGE, *sides], expert)
        if not segment.is_target or self._needs_copy(follows):
            for way in self.paradigm.image_inputs:
                {"codes": self._codes, "latents": self._latents, "semantic": self._semantic}[way](
                    out, content, GENERATE if way == "latents" else UNDERSTAND
                )
        out.time += self._extent(content.grid)
        self._plain(out, [IMAGE_END], expert)

    def _code_ids(self, content: Content) -> NDArray[np.int64]:
        """Ids of a picture's codes; the first of each codebook where the step will tell them."""
        starts = np.array(self.vocabulary.code_starts, np.int64)
        if content.codes is None:
            assert content.pixels is not None
            return np.tile(starts, content.grid.places)
        return (content.codes.astype(np.int64) + starts).reshape(-1)

    @staticmethod
    def _tell_codes(
        out: Columns, content: Content, ids: NDArray[np.int64], labels: NDArray[np.int64] | None
    ) -> None:
        """Where a copy's codes go once the step knows them: positions in order, -1 for none."""
        if content.codes is None:
            assert content.pixels is not None
            raw = out.raw_picture(content.pixels)
            raw.code_ids.append(ids)
            raw.code_labels.append(np.full(len(ids), -1) if labels is None else labels)

    def _codes(self, out: Columns, content: Content, expert: int) -> None:
        ids, at = self._code_ids(content), len(out.ids)
        self._span(out, ids, self.paradigm.input_attn_mode, expert)
        self._code_pos(out, content)
        self._tell_codes(out, content, at + np.arange(len(ids)), None)

    def _draw_next(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        ids = self._code_ids(content)
        each = weight / math.sqrt(len(ids))
        # The position before the first code, which says the columns, emits it.
        per = (each * self._balance(content, ids)).tolist()
        places = len(out.ids) + np.arange(len(ids))
        self._tell_codes(out, content, places, places - 1)
        out.emit(int(ids[0]), per[0])
        labels = [*ids[1:].tolist(), IGNORE]
        self._span(out, ids, CAUSAL, GENERATE, labels, [*per[1:], 0.0])
        self._code_pos(out, content)

    def _draw_masked(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        # Shares of masks follow the cosine schedule of the sampler (MaskGIT, Chang et al. 2022).
        share = math.cos(math.pi / 2 * rng.uniform())
        codes = self._code_ids(content)
        ids, labels, per = mask_tokens(codes, rng, weight, share)
        per *= self._balance(content, codes)
        places = len(out.ids) + np.arange(len(ids))
        known, learnt = np.where(ids == MASK, -1, places), np.where(labels == IGNORE, -1, places)
        self._tell_codes(out, content, known, learnt)
        self._span(out, ids, FULL, GENERATE, labels.tolist(), per.tolist())
        self._code_pos(out, content)

    def _add_latents(
        self,
        out: Columns,
        content: Content,
        index: NDArray[np.int64],
        time: float,
        eps: NDArray[np.float32] | None,
        loss: float,
    ) -> None:
        channels = self.layout.latent_channels
        if content.latents is None:
            assert content.pixels is not None
            out.raw_picture(content.pixels).latent_rows.append(out.latents)
            values = np.zeros((content.grid.places, channels), np.float32)
        else:
            values = content.latents.reshape(-1, channels)
        out.latents += len(values)
        out.add_loose("latent", values, np.float32)
        out.add_loose("latent_eps", eps if eps is not None else np.zeros_like(values), np.float32)
        out.add_loose("latent_idx", index, np.int64)
        out.add_loose("latent_t", np.full(len(values), time), np.float32)
        out.add_loose("latent_loss", np.full(len(values), loss), np.float32)
        places = np.indices(content.grid.image).reshape(2, -1).T
        out.add_loose("latent_place", places, np.int32)

    def _continuous(
        self, out: Columns, count: int, attn_mode: int, expert: int
    ) -> NDArray[np.int64]:
        """A span without ids; returns where it lies."""
        at = len(out.ids)
        self._span(out, np.full(count, -1), attn_mode, expert)
        return at + np.arange(count)

    def _latents(self, out: Columns, content: Content, expert: int) -> None:
        index = self._continuous(out, content.grid.places, self.paradigm.input_attn_mode, expert)
        out.stand_in_grid(content.grid.image)
        self._add_latents(out, content, index, 0.0, None, 0.0)

    def _draw_flow(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        time, eps = draw_noise(content.grid.places, self.layout, rng)
        attn_mode = NOISE if self.paradigm.clean_copy else FULL
        index = self._continuous(out, len(eps), attn_mode, GENERATE)
        out.stand_in_grid(content.grid.image)
        self._add_latents(out, content, index, time, eps, weight)

    def _draw_query(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        time, eps = draw_noise(content.grid.places, self.layout, rng)
        at = len(out.ids)
        bound, places = bind_queries(len(eps), self.layout.queries(len(eps)))
        ids = self.vocabulary.query_start + np.arange(len(places))
        self._span(out, ids, FULL, GENERATE)
        out.stand_in_grid(content.grid.image, places=places)
        self._add_latents(out, content, at + bound, time, eps, weight)

    def _semantic(self, out: Columns, content: Content, expert: int) -> None:
        assert content.semantic is not None
        rows, columns, width = content.semantic.shape
        index = self._continuous(out, rows * columns, self.paradigm.input_attn_mode, expert)
        frame = content.grid.image if self._has_frame else None
        out.stand_in_grid((rows, columns), frame=frame)
        out.add_loose("semantic", content.semantic.reshape(-1, width), np.float32)
        out.add_loose("semantic_idx", index, np.int64)
        out.semantic_spans.append(rows * columns)

    def _finish(self, out: Columns, source: int) -> Document:
        empty: dict[str, Array] = {
            "latent": np.zeros((0, self.layout.latent_channels), np.float32),
            "latent_eps": np.zeros((0, self.layout.latent_channels), np.float32),
            "latent_idx": np.zeros(0, np.int64),
            "latent_t": np.zeros(0, np.float32),
            "latent_loss": np.zeros(0, np.float32),
            "latent_place": np.zeros((0, 2), np.int32),
            "semantic": np.zeros((0, self.layout.semantic_width), np.float32),
            "semantic_idx": np.zeros(0, np.int64),
        }
        return Document(
            **{**empty, **out.arrays()}, semantic_spans=out.semantic_spans, source=source,
            raw=list(out.raw.values()),
        )  # fmt: skip
