"""What can be told of a document by its texts, and by the scores of its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from gristmill.pipelines.media import Decoded
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score


@dataclass(frozen=True, kw_only=True)
class DocumentFacts(Score):
    """How much text and how many pictures, how they lie, how much repeats itself."""

    def reads(self) -> tuple[str, ...]:
        """Texts, and pictures' places and scores."""
        return ("texts", "image_places", "image_scores")

    def writes(self) -> pa.Schema:
        """Counts and shares."""
        return pa.schema(
            [
                pa.field("text_count", pa.int32()),
                pa.field("text_chars", pa.int32()),
                pa.field("words_per_image", pa.float32()),
                pa.field("repeated_text_share", pa.float32()),
                pa.field("images_in_a_row", pa.int32()),
                pa.field("mean_image_score", pa.float32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "text_count": ColumnFacts("Texts of the document.", "texts", low=0),
            "text_chars": ColumnFacts("Length of all texts.", "characters", low=0),
            "words_per_image": ColumnFacts("Words by pictures.", low=0),
            "repeated_text_share": ColumnFacts(
                "Share of texts that occurred before in the document.", low=0, high=1
            ),
            "images_in_a_row": ColumnFacts(
                "Most of them without a text between.", "pictures", low=0
            ),
            "mean_image_score": ColumnFacts(
                "Mean of the pictures' CLIP scores; null if none has one.", low=-1, high=1
            ),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Measure each document."""
        rows = [
            _measure(texts or [], places or [], scores or [])
            for texts, places, scores in zip(
                *(table[name].to_pylist() for name in self.reads()), strict=True
            )
        ]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _measure(texts: list[str], places: list[int], scores: list[float | None]) -> tuple[object, ...]:
    words = sum(len(text.split()) for text in texts)
    known = [score for score in scores if score is not None]
    distinct = len({" ".join(text.lower().split()) for text in texts})
    return (
        len(texts),
        sum(len(text) for text in texts),
        round(words / max(len(places), 1), 5),
        round(1 - distinct / len(texts), 5) if texts else 0.0,
        max(Counter(places).values(), default=0),
        round(sum(known) / len(known), 5) if known else None,
    )
