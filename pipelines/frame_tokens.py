"""Tokens of clips: codes of frames evenly spread, each with the number of its frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.clip_frames import CLIP, FRAMES, moments_of
from gristmill.pipelines.media import Media
from gristmill.pipelines.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class FrameTokens(Tokens):
    """What `Tokens` writes of a picture, of several frames of each clip, one after the other.

    `frame_index` says which frames of the clip they are.
    """

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", *Tokens.libraries)

    # Frames of each clip, evenly spread, at most 12.
    frames: int = 4

    def check(self) -> None:
        """Validate the number of frames beside what `Tokens` asks for."""
        super().check()
        if not 1 <= self.frames <= FRAMES:
            raise ConfigurationError(f"frames is {self.frames}; it lies between 1 and {FRAMES}")

    def reads(self) -> tuple[str, ...]:
        """Captions, and how many frames there are."""
        return ("caption", "frames")

    def writes(self) -> pa.Schema:
        """As the encoder says, and which frames."""
        written = super().writes()
        if not self.images:
            return written
        return written.append(pa.field("frame_index", pa.list_(pa.int32())))

    def score(self, table: pa.Table, images: Sequence[Any] | None) -> pa.Table:
        """Encode frames of each clip, and its caption."""
        assert images is not None
        schema = self.writes()
        frames, owner, index = [], [], []
        for i, clip in enumerate(images):
            count = min(self.frames, len(clip.frames))
            places = [int((j + 0.5) * len(clip.frames) / count) for j in range(count)]
            moments = moments_of(table["frames"][i].as_py())
            frames += [clip.frames[place] for place in places]
            owner += [i] * count
            index.append([moments[place] for place in places])
        texts = [text or "" for text in table["caption"].to_pylist()]
        # An encoder takes a text with each picture; that of a clip goes with its first frame.
        encoded = self._encoder().encode(frames, [texts[i] for i in owner])
        columns = []
        for field in encoded.schema:
            by_clip: list[Any] = [None] * len(texts)
            for i, value in zip(owner, encoded[field.name].to_pylist(), strict=True):
                if by_clip[i] is None:
                    by_clip[i] = value
                elif field.name.startswith("image_") and isinstance(value, list):
                    by_clip[i] = by_clip[i] + value
            columns.append(pa.array(by_clip, field.type))
        if self.images:
            columns.append(pa.array(index, pa.list_(pa.int32())))
        return pa.table(columns, schema=schema)
