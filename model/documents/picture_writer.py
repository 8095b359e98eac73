"""Writes the pictures of documents: as they are given, and as they are drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gristmill.model.documents.batch import GENERATE, IGNORE, UNDERSTAND
from gristmill.model.documents.corruption import draw_noise, draw_times, mask_tokens
from gristmill.model.documents.document_builder import Columns, bind_queries
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment
from gristmill.model.documents.vocabulary import IMAGE, IMAGE_END, MASK, Vocabulary

if TYPE_CHECKING:
    from gristmill.model.documents.document_writer import DocumentLayout


class PictureWriter:
    """Lays pictures out as a paradigm has them.

    `<image>`, rows, columns, then copies of the picture, `</image>`. A picture that is drawn and
    one that is given leave the same behind: marks are text, and what is seen of a picture is seen
    by the same expert, whoever drew it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        paradigm: Paradigm,
        layout: DocumentLayout,
        code_weights: NDArray[np.float32] | None,
    ) -> None:
        self.vocabulary, self.paradigm, self.layout = vocabulary, paradigm, layout
        self._code_weights = code_weights

    def length(self, grid: PictureGrid, segment: ImageSegment, follows: bool) -> int:
        """Positions of a picture; `follows`: whether something does."""
        codes = grid.places * max(1, len(self.vocabulary.codebooks))
        semantic = 0 if self.paradigm.fused else grid.semantic[0] * grid.semantic[1]
        sizes = {"codes": codes, "latents": grid.places, "semantic": semantic}
        total = 4
        if segment.is_target:
            total += {
                "next": codes, "masked": codes, "flow": grid.places, "next-latent": grid.places,
                "query": self.layout.queries(grid.places),
            }[self.paradigm.image_objective]  # fmt: skip
        if self._is_seen(segment, follows):
            total += sum(sizes[way] for way in self.paradigm.image_inputs)
        return total

    def _is_seen(self, segment: ImageSegment, follows: bool) -> bool:
        """Whether there are copies of the picture as it is given."""
        return not segment.is_target or (follows and self.paradigm.repeats_drawn)

    def open(self, out: Columns, grid: PictureGrid, weight: float = 0.0) -> None:
        """What stands before a picture; with a weight, its sides are learnt."""
        sides = [self.vocabulary.side(count) for count in grid.image]
        labels = [*sides, IGNORE] if weight else []
        out.plain([IMAGE, *sides], labels, [weight, weight, 0.0] if weight else [])

    def write(
        self,
        out: Columns,
        segment: ImageSegment,
        content: Content,
        rng: np.random.Generator,
        weight: float,
        follows: bool,
    ) -> None:
        """One picture. Noise and masks are drawn from `rng`."""
        if segment.is_target and out.after_text:
            out.emit(IMAGE, weight / 10)
        self.open(out, content.grid, weight / 10 if segment.is_target else 0.0)
        if segment.is_target:
            {
                "next": self._draw_next,
                "next-latent": self._draw_next_latent,
                "masked": self._draw_masked,
                "flow": self._draw_flow,
                "query": self._draw_query,
            }[self.paradigm.image_objective](out, content, rng, weight)
        if self._is_seen(segment, follows):
            if self.paradigm.fused:
                self._fused(out, content)
            else:
                for way in self.paradigm.image_inputs:
                    {"codes": self._codes, "latents": self._latents, "semantic": self._semantic}[
                        way
                    ](out, content)
        out.time += self._extent(content.grid)
        out.plain([IMAGE_END])

    @property
    def _has_frame(self) -> bool:
        """Whether semantic patches stand where the codes or latents beside them do."""
        return bool({"codes", "latents"} & set(self.paradigm.image_inputs))

    def _extent(self, grid: PictureGrid) -> int:
        """What follows a picture begins behind its largest position, the same whether the picture
        was drawn or given."""
        if self.layout.in_line:
            if self._has_frame:
                return grid.places * len(self.vocabulary.codebooks)
            return grid.semantic[0] * grid.semantic[1]
        return max(*grid.image, *((0, 0) if self._has_frame else grid.semantic))

    def _stand_as_codes(self, out: Columns, content: Content) -> None:
        """Codes of a place share its position, but in line."""
        if self.layout.in_line:
            out.stand_ahead(content.grid.places * len(self.vocabulary.codebooks))
            return
        out.stand_in_grid(content.grid.image, repeat=len(self.vocabulary.codebooks))

    def _balance(self, content: Content, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights of a picture's codes, given as ids; one where the step will tell them."""
        if self._code_weights is None or content.codes is None:
            return np.ones(len(codes), np.float32)
        return self._code_weights[codes - self.vocabulary.code_starts[0]]

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

    def _codes(self, out: Columns, content: Content) -> None:
        ids, at = self._code_ids(content), len(out.ids)
        out.spanned(ids, self.paradigm.input_attn_mode, GENERATE)
        self._stand_as_codes(out, content)
        self._tell_codes(out, content, at + np.arange(len(ids)), None)

    def _latents(self, out: Columns, content: Content) -> None:
        index = self._place_latents(out, content, self.paradigm.input_attn_mode, GENERATE)
        self._add_latents(out, content, index)

    def _semantic(self, out: Columns, content: Content) -> None:
        assert content.semantic is not None
        rows, columns, _ = content.semantic.shape
        at = len(out.ids)
        ids = np.full(rows * columns, -1)
        out.spanned(ids, self.paradigm.input_attn_mode, UNDERSTAND)
        if self.layout.in_line:
            out.stand_ahead(rows * columns)
        else:
            frame = content.grid.image if self._has_frame else None
            out.stand_in_grid((rows, columns), frame=frame)
        out.add_semantic(content.semantic, at + np.arange(rows * columns), (rows, columns))

    def _fused(self, out: Columns, content: Content) -> None:
        """Latents and semantic patches in one position each, on the grid of the latents (Show-o2,
        Xie et al. 2025; TUNA, Liu et al. 2025)."""
        assert content.semantic is not None
        index = self._place_latents(out, content, self.paradigm.input_attn_mode, UNDERSTAND)
        self._add_latents(out, content, index)
        out.add_semantic(content.semantic, index, content.grid.image)

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
        out.spanned(ids, self.paradigm.drawn_attn_mode, GENERATE, labels, [*per[1:], 0.0])
        self._stand_as_codes(out, content)

    def _draw_next_latent(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        """Clean latents one after the other; what comes next is drawn by a flow from the output of
        the position before (MAR, Li et al. 2024), each at a time of its own."""
        index = self._place_latents(out, content, self.paradigm.drawn_attn_mode, GENERATE)
        self._add_latents(out, content, index)
        eps = draw_noise(content.grid.places, self.layout.latent_channels, rng)
        # Alone, a latent does not show through noise as neighbours show one another.
        times = draw_times(self.layout.time_mean, 1.0, rng, count=len(index))
        self._add_latents(out, content, index - 1, times, eps, weight)

    def _draw_masked(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        # Shares of masks follow the cosine schedule of the sampler (MaskGIT, Chang et al. 2022).
        share = math.cos(math.pi / 2 * rng.uniform())
        codes = self._code_ids(content)
        ids, labels, per = mask_tokens(codes, rng, weight * math.sqrt(len(codes)), share)
        per *= self._balance(content, codes)
        places = len(out.ids) + np.arange(len(ids))
        known, learnt = np.where(ids == MASK, -1, places), np.where(labels == IGNORE, -1, places)
        self._tell_codes(out, content, known, learnt)
        mode = self.paradigm.drawn_attn_mode
        out.spanned(ids, mode, GENERATE, labels.tolist(), per.tolist())
        self._stand_as_codes(out, content)

    def _draw_flow(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        time = self._one_time(content, rng)
        eps = draw_noise(content.grid.places, self.layout.latent_channels, rng)
        index = self._place_latents(out, content, self.paradigm.drawn_attn_mode, GENERATE)
        self._add_latents(out, content, index, time, eps, weight)

    def _draw_query(
        self, out: Columns, content: Content, rng: np.random.Generator, weight: float
    ) -> None:
        time = self._one_time(content, rng)
        eps = draw_noise(content.grid.places, self.layout.latent_channels, rng)
        at = len(out.ids)
        bound, places = bind_queries(len(eps), self.layout.queries(len(eps)))
        ids = self.vocabulary.query_start + np.arange(len(places))
        out.spanned(ids, self.paradigm.drawn_attn_mode, GENERATE)
        out.stand_in_grid(content.grid.image, places=places)
        self._add_latents(out, content, at + bound, time, eps, weight)

    def _one_time(self, content: Content, rng: np.random.Generator) -> NDArray[np.float32]:
        """The time of all of a picture's latents."""
        shift = self.layout.shift(content.grid.places)
        return draw_times(self.layout.time_mean, shift, rng, count=1)

    def _place_latents(
        self, out: Columns, content: Content, attn_mode: int, expert: int
    ) -> NDArray[np.int64]:
        """A span for latents, and where it lies."""
        index = len(out.ids) + np.arange(content.grid.places)
        out.spanned(np.full(len(index), -1), attn_mode, expert)
        out.stand_in_grid(content.grid.image)
        return index

    def _add_latents(
        self,
        out: Columns,
        content: Content,
        index: NDArray[np.int64],
        times: NDArray[np.float32] | float = 0.0,
        eps: NDArray[np.float32] | None = None,
        loss: float = 0.0,
    ) -> None:
        channels = self.layout.latent_channels
        if content.latents is None:
            assert content.pixels is not None
            out.raw_picture(content.pixels).latent_rows.append(out.latents)
            values = np.zeros((content.grid.places, channels), np.float32)
        else:
            values = content.latents.reshape(-1, channels)
        out.latents += len(values)
        places = np.indices(content.grid.image).reshape(2, -1).T
        out.add_loose("latent", values, np.float32)
        out.add_loose("latent_eps", eps if eps is not None else np.zeros_like(values), np.float32)
        out.add_loose("latent_idx", index, np.int64)
        out.add_loose("latent_t", np.broadcast_to(times, len(values)), np.float32)
        out.add_loose("latent_loss", np.full(len(values), loss), np.float32)
        out.add_loose("latent_place", places, np.int32)
