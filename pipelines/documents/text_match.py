"""How well each text of a document fits a picture of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.media import Decoded
from gristmill.pipelines.schema import ColumnFacts


@dataclass(frozen=True, kw_only=True)
class TextMatch(ClipScore):
    """CLIP score of a picture against every text of its document, and the best of them (Zhu et al.
    2023, MMC4). The fields are those of `ClipScore`; only pictures' embeddings are stored."""

    def reads(self) -> tuple[str, ...]:
        """All texts of the document."""
        return ("texts",)

    def writes(self) -> pa.Schema:
        """The best score, null without a text; which text that is; all scores; the embedding."""
        fields = [
            pa.field(self.name, pa.float32()),
            pa.field("best_text", pa.int32()),
            pa.field("text_scores", pa.list_(pa.float32())),
        ]
        return pa.schema([*fields, *self.embedding_fields()[:1]])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            self.name: ColumnFacts(
                "Cosine of the picture and the text that fits it best; null without a text.",
                low=-1,
                high=1,
            ),
            "best_text": ColumnFacts("Number of that text, from 0.", low=0),
            "text_scores": ColumnFacts(
                "Cosine of the picture and each text of its document, -1..1."
            ),
            "image_embedding": ColumnFacts("Embedding of the picture, unit length, float16."),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Score pictures; a text that several of them have is read once."""
        assert images is not None
        if not len(images):
            return self.writes().empty_table()
        documents = [list(texts or ()) for texts in table["texts"].to_pylist()]
        place = {text: i for i, text in enumerate(dict.fromkeys(itertools.chain(*documents)))}
        picture = self.embed_images(images)
        text = self.embed_texts(list(place)) if place else np.zeros((0, picture.shape[1]))
        best: list[float | None] = []
        which: list[int | None] = []
        every: list[list[float]] = []
        for row, texts in zip(picture, documents, strict=True):
            chosen = text[[place[one] for one in texts]].astype(np.float64)
            scores = (chosen @ row.astype(np.float64)).round(5)
            every.append(scores.tolist())
            best.append(float(scores.max()) if len(scores) else None)
            which.append(int(scores.argmax()) if len(scores) else None)
        columns: list[object] = [best, which, every]
        columns += self.embedding_columns(picture, picture)[:1]
        return pa.table(columns, schema=self.writes())
