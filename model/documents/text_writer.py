"""Writes the texts of documents: token by token, or in blocks that are unmasked in any order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gristmill.model.documents.batch import IGNORE, NOISE, UNDERSTAND
from gristmill.model.documents.corruption import mask_tokens
from gristmill.model.documents.document_builder import Columns
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.vocabulary import IMAGE, MASK, Vocabulary

if TYPE_CHECKING:
    from gristmill.model.documents.document_writer import DocumentLayout


class TextWriter:
    """Lays texts out as a paradigm has them. `then` is the segment that follows, if one does."""

    def __init__(self, vocabulary: Vocabulary, paradigm: Paradigm, layout: DocumentLayout) -> None:
        self.vocabulary, self.layout = vocabulary, layout
        self._in_blocks = paradigm.text_objective == "masked"

    def length(self, segment: TextSegment, then: Segment | None) -> int:
        """Positions of a text."""
        special = segment.special_token is not None
        ids = len(self._ids(segment)) + segment.ends
        if not (segment.is_target and self._in_blocks):
            return special + ids
        masked = math.ceil((ids + _opens(segment, then)) / self.layout.text_block)
        masked *= self.layout.text_block
        clean = ids if then is not None else min(ids, max(0, masked - self.layout.text_block))
        return special + masked + clean

    def _ids(self, segment: TextSegment) -> list[int]:
        return self.vocabulary.encode(segment.text) if segment.ids is None else list(segment.ids)

    def write(
        self,
        out: Columns,
        segment: TextSegment,
        then: Segment | None,
        rng: np.random.Generator,
        weight: float,
    ) -> None:
        """One text; its labels, if it is learnt, have sqrt(length) times `weight` in all."""
        special = [] if segment.special_token is None else [segment.special_token]
        text = self._ids(segment) + ([self.vocabulary.eos] if segment.ends else [])
        if not (segment.is_target and text):
            out.plain([*special, *text])
        elif self._in_blocks:
            out.plain(special)
            self._blocks(out, text, segment, then, rng, weight)
        else:
            each = weight / math.sqrt(len(text))
            labels, per = [*text, IGNORE], [each] * len(text) + [0.0]
            if not special:
                # The position before emits the first id.
                out.emit(labels.pop(0), per.pop(0))
            out.plain([*special, *text], labels, per)
            out.after_text = not segment.ends

    def _blocks(
        self,
        out: Columns,
        text: list[int],
        segment: TextSegment,
        then: Segment | None,
        rng: np.random.Generator,
        weight: float,
    ) -> None:
        """Block after block, each unmasked in any order (LLaDA, Nie et al. 2025) behind clean
        copies of those before (BD3-LM, Arriola et al. 2025).

        What ends the text stands behind it, the end or a picture, and ends fill the last block. Of
        a text whose end is not known, as something was cut off, the rest stays masked and learns
        nothing.
        """
        block, opens = self.layout.text_block, _opens(segment, then)
        said = [*text, *([IMAGE] if opens else [])]
        stop = block * math.ceil(len(said) / block)
        # Of a conversation, the end of an answer is among its ids.
        is_whole = segment.ends or opens or text[-1] in self.vocabulary.ends
        learnt = stop if is_whole else len(said)
        said += [self.vocabulary.eos] * (learnt - len(said))
        each = weight / math.sqrt(learnt)
        for start in range(0, stop, block):
            here = np.array(said[start : start + block])
            ids, labels = np.full(block, MASK), np.full(block, IGNORE)
            per, count = np.zeros(block, np.float32), len(here)
            ids[:count], labels[:count], per[:count] = mask_tokens(
                here, rng, each * count, share=rng.uniform()
            )
            begin = out.time
            out.spanned(ids, NOISE, UNDERSTAND, labels.tolist(), per.tolist())
            out.stand_in_line(block)
            # The clean copy stands where its block does.
            out.time = begin
            if then is not None or start + block < stop:
                out.plain(text[start : start + block])


def _opens(segment: TextSegment, then: Segment | None) -> bool:
    """Whether the text ends by opening a picture."""
    return isinstance(then, ImageSegment) and then.is_target and not segment.ends
