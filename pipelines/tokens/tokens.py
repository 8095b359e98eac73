"""Tokens as columns: what a model eats of a picture and of a caption, computed once."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Needs, Score, setting
from gristmill.pipelines.user_code import import_named


class Encoder(Protocol):
    """Turns pictures and captions into columns. Made by `package.module:function` of two file
    paths, for pictures and for texts, either of them empty; and of `patches`, where it is set."""

    schema: pa.Schema
    """What it writes; list columns, typed, never null."""

    def encode(self, images: Sequence[Image], texts: Sequence[str]) -> pa.Table:
        """Columns of `schema` for uint8 RGB pictures of any size and their captions."""


@dataclass(frozen=True, kw_only=True)
class Tokens(Score):
    """Codes or latents of pictures, ids of captions, as columns that shards carry.

    The encoder comes from outside, so that pipelines know nothing of a model: recipes hand in that
    of `gristmill.model`.
    """

    # 2: pictures keep their ratio, `image_grid` says their rows and columns.
    version: ClassVar[int] = 2
    media: ClassVar[Media | None] = PICTURE
    libraries: ClassVar[tuple[str, ...]] = ("torch", "tokenizers", "opencv-python-headless")

    # Codec of pictures; empty: no codes.
    images: str = ""
    # `tokenizers` file of captions; empty: no ids.
    text: str = ""
    # Most places of a picture, which is made smaller, at its own ratio, to have no more; 0: those
    # of the square that the codec was trained on.
    patches: int = setting(0, unit="places", low=0, high=4096)
    # `package.module:function` that makes the encoder of these two files.
    encoder: str = ""

    def is_disabled(self) -> bool:
        """Without files there is nothing to write."""
        return not self.images and not self.text

    def reads(self) -> tuple[str, ...]:
        """Captions."""
        return ("caption",)

    def needs(self) -> Needs:
        """Small models, one thread."""
        return Needs(memory_gb=1.5)

    def files(self) -> tuple[str, ...]:
        """Both files decide what is written."""
        return tuple(path for path in (self.images, self.text) if path)

    def check(self) -> None:
        """Raise `ConfigurationError` for a file that is missing, or no encoder."""
        if self.is_disabled():
            raise ConfigurationError(
                "Tokens has nothing to do: give it images or text, or take it out"
            )
        for name, path in (("images", self.images), ("text", self.text)):
            if path and not os.path.exists(path):
                raise ConfigurationError(
                    f"Tokens.{name}: no file at {path}; make one with gristmill train-codec, or "
                    "gristmill train-tokenizer"
                )
        if not self.encoder:
            raise ConfigurationError("Tokens.encoder is empty; name a package.module:function")

    def writes(self) -> pa.Schema:
        """As the encoder says."""
        if self.is_disabled():
            return pa.schema([])
        self.check()
        return self._encoder().schema

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        codec = "images=CODEC.safetensors"
        return {
            "image_codes": ColumnFacts("Codes of the picture, in raster order.", only_with=codec),
            "image_latents": ColumnFacts(
                "Latents of the picture.", only_with=codec + ", of latents"
            ),
            "image_grid": ColumnFacts(
                "Rows and columns of each picture's codes or latents.", only_with=codec
            ),
            "image_codec": ColumnFacts("Digest of the codec's file.", only_with=codec),
            "text_tokens": ColumnFacts("Ids of the caption.", only_with="text=TOKENIZER.json"),
        }

    def prepare(self) -> None:
        """Load the files."""
        if not self.is_disabled():
            self._encoder()

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Encode each picture and caption."""
        assert images is not None
        if self.is_disabled():
            return self.writes().empty_table()
        return self._encoder().encode(images, [text or "" for text in table["caption"].to_pylist()])

    def _encoder(self) -> Encoder:
        return _load(self.encoder, self.images, self.text, self.patches)


@functools.lru_cache(maxsize=2)
def _load(encoder: str, images: str, text: str, patches: int) -> Encoder:
    try:
        make = import_named(encoder)
    except ConfigurationError as error:
        raise ConfigurationError(f"Tokens.encoder {error}") from error
    if not callable(make):
        raise ConfigurationError(f"Tokens.encoder {encoder!r} is no function of the two files")
    # An encoder of others may know of no sizes.
    made: Encoder = make(images, text, patches=patches) if patches else make(images, text)
    return made
