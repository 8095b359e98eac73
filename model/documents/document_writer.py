"""Writes documents: texts and pictures, laid out as a paradigm wants them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.documents.batch import Array, Document
from gristmill.model.documents.document_builder import Columns
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.picture_writer import PictureWriter
from gristmill.model.documents.segments import Content, ImageSegment, Segment, TextSegment
from gristmill.model.documents.text_writer import TextWriter
from gristmill.model.documents.vocabulary import PAD, Vocabulary

# Where the places of a picture stand: in rows and columns at one time, or each a step of time.
PICTURE_POSITIONS = ("grid", "line")


@dataclass(frozen=True, kw_only=True)
class DocumentLayout:
    """What fixes how many positions a picture takes, and how noise and masks are drawn."""

    # Most places of codes or latents of one picture; latents to a query.
    patches: int
    latents_per_query: int = 4
    latent_channels: int = 0
    # Of features that travel; pixels of a semantic patch's side, where pixels do.
    semantic_width: int = 0
    semantic_patch: int = 0
    # "grid": M-RoPE; "line": as text, as Chameleon, Emu3 and Janus were trained.
    picture_positions: str = "grid"
    # Positions of text that are unmasked in any order, before the next so many.
    text_block: int = 24
    # Time t = sigmoid(normal(mean, 1)), then shift * t / (1 + (shift - 1) t) (Esser et al. 2024),
    # where the shift of a picture grows with the root of its places: this is that of `patches`.
    time_mean: float = 0.0
    time_shift: float = 1.0
    # Weight of text that is learnt, against that of pictures.
    text_weight: float = 3.0
    # Power by which rare codes count more; see `codecs.balancing_weights`.
    code_balance: float = 0.5

    @property
    def in_line(self) -> bool:
        """Whether the places of a picture stand in line with text."""
        return self.picture_positions == "line"

    def check(self, paradigm: Paradigm) -> None:
        """Raise `ConfigurationError` for what a paradigm cannot lay out."""
        require_known("picture_positions", self.picture_positions, PICTURE_POSITIONS)
        if self.in_line and not (paradigm.codes and len(paradigm.image_inputs) == 1):
            raise ConfigurationError(
                f"picture_positions line: pictures of paradigm {paradigm.name} are no single line "
                "of codes or patches; set picture_positions=grid"
            )

    def queries(self, places: int) -> int:
        """Queries of a picture of so many places."""
        return math.ceil(places / self.latents_per_query)

    def no_semantic(self) -> Array:
        """Semantic patches of no picture, [0, values]."""
        if self.semantic_patch:
            return np.zeros((0, 3 * self.semantic_patch**2), np.uint8)
        return np.zeros((0, self.semantic_width), np.float32)

    def shift(self, places: int) -> float:
        """Shift of the times of a picture of so many places: more of them show through as much
        noise (Esser et al. 2024, section 5.3.2)."""
        return self.time_shift * math.sqrt(places / self.patches)


class DocumentWriter:
    """Lays segments out as a paradigm's documents.

    A segment that is learnt leaves behind what it would leave if it were given, so that whatever
    follows has one context in training and in sampling.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        paradigm: Paradigm,
        layout: DocumentLayout,
        code_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """`code_weights`: one for each code of all codebooks; all alike if there are none."""
        layout.check(paradigm)
        self.vocabulary, self.paradigm, self.layout = vocabulary, paradigm, layout
        self._texts = TextWriter(vocabulary, paradigm, layout)
        self._pictures = PictureWriter(vocabulary, paradigm, layout, code_weights)

    def length(self, segments: Sequence[Segment], grids: Sequence[PictureGrid] = ()) -> int:
        """Positions of the document, from the grids of its pictures alone."""
        total = len(self._start(segments))
        for segment, then in _with_next(segments):
            if isinstance(segment, ImageSegment):
                total += self._pictures.length(grids[segment.number], segment, then is not None)
            else:
                total += self._texts.length(segment, then)
        return total

    def _start(self, segments: Sequence[Segment]) -> list[int]:
        first = segments[0] if segments else None
        return [] if isinstance(first, TextSegment) and first.begins else [self.vocabulary.bos]

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
        out.plain(self._start(segments))
        for segment, then in _with_next(segments):
            if prompt and then is None:
                self._open(out, segment, pictures)
            elif isinstance(segment, ImageSegment):
                content = pictures[segment.number]
                self._pictures.write(out, segment, content, rng, weight, then is not None)
            else:
                self._texts.write(out, segment, then, rng, weight * self.layout.text_weight)
        return self._finish(out, source)

    def _open(self, out: Columns, segment: Segment, pictures: Sequence[Content]) -> None:
        """The special tokens before what is to come."""
        if isinstance(segment, ImageSegment):
            self._pictures.open(out, pictures[segment.number].grid)
        elif segment.special_token is not None:
            out.plain([segment.special_token])

    def blank(
        self, segments: Sequence[Segment], grids: Sequence[PictureGrid] = (), *, source: int = 0
    ) -> Document:
        """As many positions as a document of these segments has, of padding: nothing is learnt at
        them, and the documents beside it stand where they would."""
        out = Columns()
        out.plain([PAD] * self.length(segments, grids))
        return self._finish(out, source)

    def nothing(self) -> Document:
        """A document of no positions, for rows that are padding alone."""
        return self._finish(Columns(), 0)

    def _finish(self, out: Columns, source: int) -> Document:
        empty: dict[str, Array] = {
            "latent": np.zeros((0, self.layout.latent_channels), np.float32),
            "latent_eps": np.zeros((0, self.layout.latent_channels), np.float32),
            "latent_idx": np.zeros(0, np.int64),
            "latent_t": np.zeros(0, np.float32),
            "latent_loss": np.zeros(0, np.float32),
            "latent_place": np.zeros((0, 2), np.int32),
            "semantic": self.layout.no_semantic(),
            "semantic_idx": np.zeros(0, np.int64),
        }
        return Document(
            **{**empty, **out.arrays()}, semantic_spans=out.semantic_spans, source=source,
            raw=list(out.raw.values()),
        )  # fmt: skip


def _with_next(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment | None]]:
    """Each segment, and the one that follows it."""
    return zip(segments, [*segments[1:], None], strict=True)
