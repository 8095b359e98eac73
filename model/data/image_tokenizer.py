"""Turns picture files into what a paradigm needs of them: codes, latents, semantic patches."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, to_unit
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.documents.facts import SampleColumns
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.documents.picture_grid import PictureGrid, fit_grid, square_grid
from gristmill.model.documents.segments import Content
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.encoders.load import patchify
from gristmill.pipelines.decode import Image


class ImageTokenizer:
    """A codec and an encoder, and what they made of the pictures that came last."""

    def __init__(
        self,
        paradigm: Paradigm,
        codec: Codec,
        encoder: VisionConfig | None,
        patches: int,
        cache_mb: float = 256.0,
    ) -> None:
        """`patches`: most places of a picture; it is made smaller, at its own ratio, to have no
        more."""
        self.paradigm, self.codec, self.encoder = paradigm, codec, encoder
        self.patches = patches
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
        self._wants = (paradigm.codes, paradigm.latents, "semantic" in paradigm.image_inputs)
        self._column: Literal["image_codes", "image_latents"] = (
            "image_codes" if codec.discrete else "image_latents"
        )
        self._cache: OrderedDict[Hashable, Content] = OrderedDict()
        self._room = cache_mb * 1e6

    def __getstate__(self) -> dict[str, object]:
        # A worker remembers what it made itself.
        room = self._room + sum(map(_size, self._cache.values()))
        return {**vars(self), "_cache": OrderedDict(), "_room": room}

    def needs_pixels(self, columns: SampleColumns) -> bool:
        """Whether a sample's stored tokens do not suffice, or are those of another codec."""
        if self._wants[2] or columns.get(self._column) is None:
            return True
        return columns.get("image_codec") not in (None, self.codec.digest)

    def token_columns(self, columns: SampleColumns) -> SampleColumns:
        """Those of a sample's columns that `stored` reads."""
        wanted = (self._column, "image_grid")
        return cast(SampleColumns, {n: value for n, value in columns.items() if n in wanted})

    def grid(self, size: tuple[int, int] | None) -> PictureGrid:
        """The grid of a picture of (height, width) pixels; a square one where that is unknown."""
        # Where there are no pictures, that says so.
        patch = self.codec.patch
        if size is None:
            image = square_grid(self.patches)
        else:
            image = fit_grid(*size, patch, self.patches)
        return PictureGrid(image, semantic_grid(self.encoder, size) if self.encoder else (0, 0))

    def grid_of(
        self, columns: SampleColumns, number: int, size: tuple[int, int] | None
    ) -> PictureGrid:
        """That of one picture of a sample, by its stored tokens, if they are what will be read."""
        if self.needs_pixels(columns):
            return self.grid(size)
        stored = self._stored_grids(columns)
        # Of one that is not there nothing is read; its place is blank.
        return PictureGrid(stored[number] if number < len(stored) else self.codec.grid)

    def _stored_grids(self, columns: SampleColumns) -> list[tuple[int, int]]:
        """Rows and columns of each picture whose tokens are stored."""
        sides = columns.get("image_grid")
        if sides is not None:
            return [(int(r), int(c)) for r, c in np.asarray(sides).reshape(-1, 2)]
        # Of before pictures had a size of their own.
        each = math.prod(self.codec.grid) * self._depth
        return [self.codec.grid] * (np.asarray(columns[self._column]).size // each)

    @property
    def _depth(self) -> int:
        """Values to a place."""
        return len(self.codec.vocabularies) or self.codec.channels

    def stored(self, columns: SampleColumns, number: int = 0) -> Content:
        """From tokens that a pipeline stored in the shard, of the picture of that number. Raises
        `ConfigurationError` for those that cannot be this codec's."""
        values = np.asarray(columns[self._column])
        grids = self._stored_grids(columns)
        ends = np.cumsum([rows * wide * self._depth for rows, wide in grids])
        if not len(ends) or values.size != ends[-1] or number >= len(grids):
            raise ConfigurationError(
                f"{self._column} has {values.size} values, which are not {len(grids)} pictures of "
                f"this codec ({self._depth} a place), or too few for picture {number + 1}; use the "
                "codec that the shards were tokenized with"
            )
        shape = (*grids[number], self._depth)
        grid = PictureGrid(grids[number])
        values = values[ends[number] - math.prod(shape) : ends[number]]
        if not self.codec.discrete:
            return Content(grid, latents=values.reshape(shape).astype(np.float32))
        shaped = values.reshape(shape).astype(np.int64)
        if (shaped >= np.array(self.codec.vocabularies)).any() or (shaped < 0).any():
            raise ConfigurationError(
                f"stored image codes reach {int(shaped.max())}, the codec knows "
                f"{self.codec.vocabularies}; use the codec that the shards were tokenized with"
            )
        return Content(grid, codes=shaped)

    def tokenize(
        self, pictures: Sequence[Image], grids: Sequence[PictureGrid] | None = None
    ) -> list[Content]:
        """Content of uint8 RGB pictures of any size: of these grids, or of their own. What a
        network makes of pixels is left to the step, on its device."""
        if grids is None:
            grids = [self.grid((picture.shape[0], picture.shape[1])) for picture in pictures]
        codes, latents, semantic = self._wants
        found = [Content(grid) for grid in grids]
        if (codes or latents) and self.codec.is_network:
            for content, picture in zip(found, pictures, strict=True):
                content.pixels = resize_center_crop(picture, *self._pixels(content.grid))
        elif codes or latents:
            for content, values in zip(found, encode_all(self.codec, pictures, grids), strict=True):
                if codes:
                    content.codes = values.astype(np.int64, copy=False)
                else:
                    content.latents = values.astype(np.float32, copy=False)
        if semantic:
            assert self.encoder is not None
            patch = self.encoder.patch
            for content, picture in zip(found, pictures, strict=True):
                rows, columns = content.grid.semantic
                small = resize_center_crop(picture, rows * patch, columns * patch)
                content.semantic = patchify(small, patch)
        return found

    def _pixels(self, grid: PictureGrid) -> tuple[int, int]:
        """Height and width in pixels."""
        return grid.image[0] * self.codec.patch, grid.image[1] * self.codec.patch

    def tokenize_cached(
        self, key: Hashable, picture: Callable[[], Image], grid: PictureGrid
    ) -> Content:
        """The same, remembered under a key; `picture` is called only if it is not known."""
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        content = self.tokenize([picture()], [grid])[0]
        self._room -= _size(content)
        self._cache[key] = content
        while self._room < 0 and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._room += _size(oldest)
        return content


@torch.no_grad()
def encode_all(
    codec: Codec, pictures: Sequence[Image], grids: Sequence[PictureGrid], batch: int = 64
) -> list[NDArray[np.generic]]:
    """Codes or latents [rows, columns, depth] of each picture, those of one grid together."""
    alike: dict[tuple[int, int], list[int]] = {}
    for number, grid in enumerate(grids):
        alike.setdefault(grid.image, []).append(number)
    found: dict[int, NDArray[np.generic]] = {}
    for (rows, columns), numbers in alike.items():
        for start in range(0, len(numbers), batch):
            part = numbers[start : start + batch]
            size = (rows * codec.patch, columns * codec.patch)
            small = np.stack([resize_center_crop(pictures[number], *size) for number in part])
            unit = to_unit(torch.from_numpy(small)).to(_device(codec))
            encoded = codec.encode(unit).cpu().numpy()
            found |= dict(zip(part, encoded, strict=True))
    return [found[number] for number in range(len(pictures))]


def _device(codec: Codec) -> torch.device:
    """Where its weights are; a codec of none computes on the CPU."""
    tensors = itertools.chain(codec.parameters(), codec.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _size(content: Content) -> float:
    arrays = (content.codes, content.latents, content.semantic, content.pixels)
    return sum(array.nbytes for array in arrays if array is not None)


def semantic_grid(config: VisionConfig, size: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of patches of a picture of (height, width) pixels: about as many as the
    tower was trained with, at the picture's ratio, smaller or larger than it is."""
    if size is None or config.whole:
        return config.grid
    scale = (config.patches * config.patch**2 / (size[0] * size[1])) ** 0.5
    larger = max(1.0, scale)
    return fit_grid(size[0] * larger, size[1] * larger, config.patch, config.patches)
