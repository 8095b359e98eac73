"""Tokens of rows with several pictures: frames of clips, pictures of documents and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURES, Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import setting
from gristmill.pipelines.tokens.tokens import Tokens
from gristmill.pipelines.videos.frames import CLIP, FRAMES, moments_of


@dataclass(frozen=True, kw_only=True)
class DocumentTokens(Tokens):
    """What `Tokens` writes of a picture, of all pictures of a row, one after the other."""

    media: ClassVar[Media | None] = PICTURES

    def pictures(self, thing: Decoded) -> list[Image]:
        """The pictures of what a row shows."""
        return list(thing)

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Encode the pictures of each row, and its caption."""
        assert images is not None
        schema = self.writes()
        if self.is_disabled():
            return schema.empty_table()
        shown = [self.pictures(thing) for thing in images]
        owner = [i for i, pictures in enumerate(shown) for _ in pictures]
        texts = [text or "" for text in table["caption"].to_pylist()]
        # An encoder takes a text with each picture; that of a row goes with its first.
        flat = [picture for pictures in shown for picture in pictures]
        encoded = self._encoder().encode(flat, [texts[i] for i in owner])
        columns = {}
        for field in encoded.schema:
            by_row: list[Any] = [None] * len(texts)
            for i, value in zip(owner, encoded[field.name].to_pylist(), strict=True):
                if by_row[i] is None:
                    by_row[i] = value
                elif field.name.startswith("image_") and isinstance(value, list):
                    by_row[i] = by_row[i] + value
            columns[field.name] = pa.array(by_row, field.type)
        columns |= self.more(table, shown)
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def more(self, table: pa.Table, shown: list[list[Image]]) -> dict[str, pa.Array]:
        """Columns beside what the encoder writes."""
        return {}


@dataclass(frozen=True, kw_only=True)
class FrameTokens(DocumentTokens):
    """What `Tokens` writes of a picture, of several frames of each clip, one after the other.

    `frame_index` says which frames of the clip they are.
    """

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", *Tokens.libraries)

    # Of each clip, evenly spread.
    frames: int = setting(4, unit="frames", low=1, high=12)

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

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        index = ColumnFacts(
            "Which frames of the clip they are.", only_with="images=CODEC.safetensors"
        )
        return {**super().describes(), "frame_index": index}

    def pictures(self, thing: Decoded) -> list[Image]:
        """Frames evenly spread."""
        return [thing.frames[place] for place in self._places(len(thing.frames))]

    def more(self, table: pa.Table, shown: list[list[Image]]) -> dict[str, pa.Array]:
        """Which frames they are."""
        index = []
        for count in table["frames"].to_pylist():
            moments = moments_of(count)
            index.append([moments[place] for place in self._places(len(moments))])
        return {"frame_index": pa.array(index, pa.list_(pa.int32()))} if self.images else {}

    def _places(self, count: int) -> list[int]:
        number = min(self.frames, count)
        return [int((i + 0.5) * count / number) for i in range(number)]
