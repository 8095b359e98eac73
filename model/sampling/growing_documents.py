"""Documents that grow under sampling: texts and pictures in turn, each seen by what follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment, Segment, TextSegment
from gristmill.model.documents.tasks import compared
from gristmill.model.documents.vocabulary import IMAGE
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.decoding import DecodingSession, Sampling, to_pictures
from gristmill.model.sampling.samplers import IMAGE_SAMPLERS, TEXT_SAMPLERS
from gristmill.pipelines.decode import Image

Asked: TypeAlias = tuple[list[Segment], list[Content]]
"""Segments that are given, and the pictures in them."""


class GrowingDocuments:
    """Rows of documents over one session of decoding.

    What was written or drawn is read again as it is given, so that what follows has the context
    that it has in training, and the prompt of one step more is what was read and a little more.
    """

    def __init__(
        self,
        model: Transformer,
        bundle: ModelBundle,
        given: Sequence[Asked],
        sampling: Sampling,
        grid: PictureGrid,
    ) -> None:
        """`grid`: that of all pictures that are drawn."""
        self._model, self._bundle, self._sampling, self._grid = model, bundle, sampling, grid
        self._segments = [list(segments) for segments, _ in given]
        self._contents = [list(contents) for _, contents in given]
        # Rows that go on.
        self.live = [True] * len(given)
        self._session: DecodingSession | None = None
        # What was drawn last, and is not yet seen.
        self._drawn: tuple[Tensor, Sequence[Image]] | None = None
        # Of each row a prompt for each thing that guidance compares; all begin so.
        begin = bundle.writer.write([TextSegment("")], [], np.random.default_rng(0), prompt=True)
        self._prompts = [[begin] * sampling.sets for _ in given]

    @torch.no_grad()
    def draw(self) -> list[Image | None]:
        """The next picture of each row that goes on."""
        self._see()
        for segments, contents in zip(self._segments, self._contents, strict=True):
            segments.append(ImageSegment(len(contents), is_target=True))
            contents.append(Content(self._grid))
        session = self._read(self._sampling.sets)
        drawn = IMAGE_SAMPLERS[self._bundle.paradigm.image_objective](session)
        pictures = list(to_pictures(self._bundle, drawn, self._grid.image))
        self._drawn = drawn, pictures
        live = zip(pictures, self.live, strict=True)
        return [picture if goes_on else None for picture, goes_on in live]

    @torch.no_grad()
    def write(self) -> list[str | None]:
        """The next text of each row that goes on; after it those go on that open a picture."""
        self._see()
        for segments in self._segments:
            segments.append(TextSegment(""))
        session = self._read(1)
        written = TEXT_SAMPLERS[self._bundle.paradigm.text_objective](session, opens=True)
        texts: list[str | None] = []
        for row, ids in enumerate(written):
            text = self._bundle.vocabulary.decode(ids)
            self._segments[row][-1] = TextSegment(text)
            texts.append(text if self.live[row] else None)
            self.live[row] = self.live[row] and ids[-1:] == [IMAGE]
        return texts

    def _read(self, sets: int) -> DecodingSession:
        """The session, with what is new of so many sets of prompts read: all before the last
        segment, which is opened."""
        write = self._bundle.writer.write
        for row, live in enumerate(self.live):
            if live:
                self._prompts[row][:sets] = [
                    write(part, self._contents[row], np.random.default_rng(0), prompt=True)
                    for part in compared(self._segments[row], sets)
                ]
        prompts = [prompt for number in zip(*self._prompts, strict=True) for prompt in number]
        if self._session is None:
            self._session = DecodingSession(
                self._model, self._bundle, prompts, self._sampling, self._grid.image,
                self._sampling.sets,
            )  # fmt: skip
        else:
            self._session.read_on(prompts)
        return self._session

    def _see(self) -> None:
        """What was drawn last becomes what is given."""
        if self._drawn is None:
            return
        drawn, pictures = self._drawn
        grids = [self._grid] * len(pictures)
        seen = [Content(grid) for grid in grids]
        if self._bundle.encoder is not None:
            seen = self._bundle.image_tokenizer.tokenize(pictures, grids)
        values = drawn.cpu().view(len(drawn), *self._grid.image, -1).numpy()
        for row, (content, value) in enumerate(zip(seen, values, strict=True)):
            # Not what the codec would make of the decoded picture.
            if self._bundle.codec.discrete:
                content.codes = value
            else:
                content.latents = value
            self._segments[row][-1] = ImageSegment(len(self._contents[row]) - 1)
            self._contents[row][-1] = content
        self._drawn = None
