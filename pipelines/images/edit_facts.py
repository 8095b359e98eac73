"""What can be told of an edit by looking at both pictures: how much of them changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from gristmill.pipelines.decode import Image
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.media import PICTURES, Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score

# Longer side at which pictures are compared, and grey levels that a pixel must change by.
_SIDE = 256
_CHANGED = 24


@dataclass(frozen=True, kw_only=True)
class EditFacts(Score):
    """Size, place and likeness of the change from the first picture to the second.

    0 change: the edit did nothing. All changed: the second is another picture.
    """

    media: ClassVar[Media | None] = PICTURES
    libraries: ClassVar[tuple[str, ...]] = ("opencv-python-headless",)

    def writes(self) -> pa.Schema:
        """Shares, 0..1."""
        return pa.schema(
            [
                pa.field("change_share", pa.float32()),
                pa.field("change_mean", pa.float32()),
                pa.field("change_box", pa.float32()),
                pa.field("same_shape", pa.bool_()),
                pa.field("instruction_words", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "change_share": ColumnFacts(
                "Share of pixels that differ by more than 24 levels in some channel, "
                "smoothed so that the noise of compression does not count.",
                low=0,
                high=1,
            ),
            "change_mean": ColumnFacts(
                "Mean absolute difference, of the whole range.", low=0, high=1
            ),
            "change_box": ColumnFacts(
                "Share of the picture in the smallest box that holds what changed.", low=0, high=1
            ),
            "same_shape": ColumnFacts("Whether both have the same shape, within a hundredth."),
            "instruction_words": ColumnFacts("Length of the instruction.", "words", low=0),
        }

    def reads(self) -> tuple[str, ...]:
        """The instruction."""
        return ("caption",)

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Compare the two pictures of each row."""
        assert images is not None
        captions = table["caption"].to_pylist()
        rows = [
            (*_compare(pair), len((caption or "").split()))
            for pair, caption in zip(images, captions, strict=True)
        ]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _compare(pair: Sequence[Image]) -> tuple[float, float, float, bool]:
    if len(pair) != 2:
        raise ValueError(f"an edit has two pictures, not {len(pair)}")
    shapes = [picture.shape[1] / picture.shape[0] for picture in pair]
    same = abs(shapes[0] / shapes[1] - 1) < 0.01
    height, width = pair[0].shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    before, after = (
        cv2.GaussianBlur(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), (5, 5), 0).astype(
            np.int16
        )
        for picture in pair
    )
    difference = np.abs(after - before)
    changed = difference.max(axis=2) > _CHANGED
    box = 0.0
    if changed.any():
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) / changed.size
    shares = (float(changed.mean()), float(difference.mean() / 255), float(box))
    return round(shares[0], 5), round(shares[1], 5), round(shares[2], 5), bool(same)


@dataclass(frozen=True, kw_only=True)
class EditScore(ClipScore):
    """Whether the edit is what was asked for, by CLIP (Brooks et al. 2023, InstructPix2Pix).

    The fields are those of `ClipScore`.
    """

    media: ClassVar[Media | None] = PICTURES

    def reads(self) -> tuple[str, ...]:
        """The instruction, and what each picture shows, where that is known."""
        return ("caption", "image_captions")

    def writes(self) -> pa.Schema:
        """Cosines."""
        return pa.schema(
            [
                pa.field(self.name, pa.float32()),
                pa.field("edit_similarity", pa.float32()),
                pa.field("edit_direction", pa.float32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            self.name: ColumnFacts(
                "Cosine of the second picture and its caption, or the instruction.",
                low=-1,
                high=1,
            ),
            "edit_similarity": ColumnFacts("Cosine of the two pictures.", low=-1, high=1),
            "edit_direction": ColumnFacts(
                "Cosine of the picture's change and the caption's; null without captions.",
                low=-1,
                high=1,
            ),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Score the pairs."""
        assert images is not None
        if not len(images):
            return self.writes().empty_table()
        before = self.embed_images([pair[0] for pair in images]).astype(np.float64)
        after = self.embed_images([pair[-1] for pair in images]).astype(np.float64)
        said = table["image_captions"].to_pylist()
        asked = table["caption"].to_pylist()
        known = [bool(captions) and len(captions) == 2 for captions in said]
        targets = [c[1] if ok else text for c, ok, text in zip(said, known, asked, strict=True)]
        sources = [c[0] if ok else "" for c, ok in zip(said, known, strict=True)]
        target = self.embed_texts(targets).astype(np.float64)
        source = self.embed_texts(sources).astype(np.float64)
        direction = _cosine(after - before, target - source)
        columns = [
            (after * target).sum(axis=1).round(5),
            (after * before).sum(axis=1).round(5),
            pa.array(direction.round(5), pa.float32(), mask=~np.array(known)),
        ]
        return pa.table(
            [
                pa.array(columns[0], pa.float32()),
                pa.array(columns[1], pa.float32()),
                columns[2],
            ],
            schema=self.writes(),
        )


def _cosine(a: Any, b: Any) -> Any:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
