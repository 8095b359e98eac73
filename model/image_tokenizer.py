"""Turns picture files into what a paradigm needs of them: codes, latents, semantic patches."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import torch

from gristmill.errors import ConfigurationError
from gristmill.model.center_crop import resize_center_crop
from gristmill.model.codecs.base import Codec, to_unit
from gristmill.model.documents import Content
from gristmill.model.facts import SampleColumns
from gristmill.model.paradigms import Paradigm
from gristmill.model.vision_encoder import SemanticEncoder
from gristmill.pipelines.decode import Image


class ImageTokenizer:
    """A codec and an encoder, and what they made of the pictures that came last."""

    def __init__(
        self,
        paradigm: Paradigm,
        codec: Codec,
        encoder: SemanticEncoder | None,
        cache_mb: float = 256.0,
    ) -> None:
        self.paradigm, self.codec, self.encoder = paradigm, codec, encoder
        needs_latents = (
            paradigm.image_objective in ("flow", "query") or "latents" in paradigm.image_inputs
        )
        if paradigm.codes != codec.discrete:
            wanted = "codes" if paradigm.codes else "latents"
            raise ConfigurationError(
                f"paradigm {paradigm.name} draws by {wanted}, a {codec.kind} codec gives "
                f"{'codes' if codec.discrete else 'latents'}; train another codec"
            )
        if "semantic" in paradigm.image_inputs and encoder is None:
            raise ConfigurationError(
                f"paradigm {paradigm.name} sees through a semantic encoder; give --encoder"
            )
        self._wants = (paradigm.codes, needs_latents, "semantic" in paradigm.image_inputs)
        self._column: Literal["image_codes", "image_latents"] = (
            "image_codes" if codec.discrete else "image_latents"
        )
        self._cache: OrderedDict[Hashable, Content] = OrderedDict()
        self._room = cache_mb * 1e6

    def needs_pixels(self, columns: SampleColumns) -> bool:
        """Whether a sample's stored tokens do not suffice, or are those of another codec."""
        if self._wants[2] or columns.get(self._column) is None:
            return True
        return columns.get("image_codec") not in (None, self.codec.digest)

    def stored(self, columns: SampleColumns, number: int = 0) -> Content:
        """From tokens that a pipeline stored in the shard, of the picture of that number. Raises
        `ConfigurationError` for those that cannot be this codec's."""
        values = np.asarray(columns[self._column])
        depth = len(self.codec.vocabularies) or self.codec.channels
        shape = (*self.codec.grid, depth)
        each = math.prod(shape)
        if values.size % each or values.size <= number * each:
            raise ConfigurationError(
                f"{self._column} has {values.size} values, this codec gives {each} a picture; "
                "use the codec that the shards were tokenized with"
            )
        values = values[number * each : (number + 1) * each]
        if not self.codec.discrete:
            return Content(latents=values.reshape(shape).astype(np.float32))
        shaped = values.reshape(shape).astype(np.int64)
        if (shaped >= np.array(self.codec.vocabularies)).any() or (shaped < 0).any():
            raise ConfigurationError(
                f"stored image codes reach {int(shaped.max())}, the codec knows "
                f"{self.codec.vocabularies}; use the codec that the shards were tokenized with"
            )
        return Content(codes=shaped)

    def tokenize(self, pictures: Sequence[Image]) -> list[Content]:
        """Content of uint8 RGB pictures of any size."""
        codes, latents, semantic = self._wants
        found = [Content() for _ in pictures]
        with torch.no_grad():
            if codes or latents:
                small = np.stack(
                    [resize_center_crop(picture, self.codec.side) for picture in pictures]
                )
                grids = self.codec.encode(to_unit(torch.from_numpy(small))).numpy()
                for content, grid in zip(found, grids, strict=True):
                    if codes:
                        content.codes = grid
                    else:
                        content.latents = grid
            if semantic:
                assert self.encoder is not None
                for content, patches in zip(found, self.encoder.encode(pictures), strict=True):
                    content.semantic = patches
        return found

    def tokenize_cached(self, key: Hashable, picture: Callable[[], Image]) -> Content:
        """The same, remembered under a key; `picture` is called only if it is not known."""
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        content = self.tokenize([picture()])[0]
        self._room -= _size(content)
        self._cache[key] = content
        while self._room < 0 and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._room += _size(oldest)
        return content


def _size(content: Content) -> float:
    arrays = (content.codes, content.latents, content.semantic)
    return sum(array.nbytes for array in arrays if array is not None)
