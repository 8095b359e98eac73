"""How well a caption fits a clip, and how steady the clip is, by the frames' CLIP embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.media import Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import setting
from gristmill.pipelines.videos.frames import CLIP


@dataclass(frozen=True, kw_only=True)
class FrameClipScore(ClipScore):
    """CLIP score of frames against the caption (mean and best), and of frames among themselves.

    The fields are those of `ClipScore`. `image_embedding` is the unit mean of the frames'.
    """

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", "torch", "open_clip_torch")

    # Of each clip, evenly spread.
    frames: int = setting(4, unit="frames", low=1, high=12)

    def writes(self) -> pa.Schema:
        """Scores, null without a caption; steadiness, 1 for clips of one frame; embeddings."""
        fields = [
            pa.field(self.name, pa.float32()),
            pa.field(f"{self.name}_max", pa.float32()),
            pa.field("temporal_consistency", pa.float32()),
        ]
        return pa.schema([*fields, *self.embedding_fields()])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            **super().describes(),
            self.name: ColumnFacts("Mean cosine of frames and caption.", low=-1, high=1),
            f"{self.name}_max": ColumnFacts(
                "Cosine of the caption and the frame that fits best.", low=-1, high=1
            ),
            "temporal_consistency": ColumnFacts(
                "Mean cosine of neighbouring frames.", low=-1, high=1
            ),
            "image_embedding": ColumnFacts("Unit mean of the frames' embeddings, float16."),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Score clips, their frames in batches of `batch_size`."""
        assert images is not None
        if not len(images):
            return self.writes().empty_table()
        captions = table["caption"].to_pylist()
        frames, owner = [], []
        for i, clip in enumerate(images):
            count = min(self.frames, len(clip.frames))
            places = [int((j + 0.5) * len(clip.frames) / count) for j in range(count)]
            frames += [clip.frames[place] for place in places]
            owner += [i] * count
        picture = self.embed_images(frames)
        text = self.embed_texts(captions)
        owners = np.array(owner)
        rows: list[tuple[float | None, float | None, float]] = []
        means = np.zeros_like(text)
        for i, caption in enumerate(captions):
            own = picture[owners == i].astype(np.float64)
            mean = own.mean(axis=0)
            means[i] = mean / max(float(np.linalg.norm(mean)), 1e-12)
            steady = float((own[1:] * own[:-1]).sum(axis=1).mean()) if len(own) > 1 else 1.0
            fits = own @ text[i].astype(np.float64)
            none = caption is None
            rows.append(
                (
                    None if none else round(float(fits.mean()), 5),
                    None if none else round(float(fits.max()), 5),
                    round(steady, 5),
                )
            )
        columns: list[object] = [list(column) for column in zip(*rows, strict=True)]
        columns += self.embedding_columns(means, text)
        return pa.table(columns, schema=self.writes())
