"""A codec that spells brightness and colour apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, Codes, Pixels, from_patches, nearest, to_patches
from gristmill.model.codecs.patches import contrast_of, find_means


class ColourCodec(Codec):
    """Each patch is the nearest of a codebook of brightness, and of one of colour: what is left of
    the pixels without their brightness. Decoding adds the two.

    A shape in a colour that it never had in training is spelt with codes that were met, the edge
    with other colours and the colour with other shapes; a code of the whole patch is met with both
    or not at all.
    """

    kind = "kmeans-colour"
    discrete = True
    is_network = False
    brightness: Tensor
    colours: Tensor

    def __init__(
        self, *, side: int = 24, patch: int = 4, sizes: Sequence[int] = (1024, 256)
    ) -> None:
        super().__init__(side=side, patch=patch)
        if len(sizes) != 2:
            raise ConfigurationError(f"sizes {tuple(sizes)}: write those of brightness and colour")
        self.sizes = (int(sizes[0]), int(sizes[1]))
        self.register_buffer("brightness", torch.zeros(self.sizes[0], patch * patch))
        self.register_buffer("colours", torch.zeros(self.sizes[1], 3 * patch * patch))

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return self.sizes

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "patch": self.patch, "sizes": self.sizes}

    def code_features(self) -> list[Tensor]:
        """The mean patches."""
        return [self.brightness, self.colours]

    def _rows(self, pictures: Pixels) -> tuple[Tensor, Tensor]:
        """Brightness and colour of each patch, [n * h * w, features]."""
        grey = pictures.mean(dim=1, keepdim=True)
        both = to_patches(grey, self.patch), to_patches(pictures - grey, self.patch)
        return both[0].flatten(0, 2), both[1].flatten(0, 2)

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find the means; raises `ConfigurationError` for fewer patches than codes."""
        generator = torch.Generator().manual_seed(seed)
        rows = self._rows(pictures)
        if len(rows[0]) < max(self.sizes):
            raise ConfigurationError(f"{len(rows[0])} patches for {self.sizes} codes; give more")
        for book, part in zip((self.brightness, self.colours), rows, strict=True):
            contrast = contrast_of(part.unflatten(1, (-1, self.patch**2)))
            book.copy_(find_means(part, contrast, len(book), generator, seed + 1))

    def _encode(self, pictures: Pixels) -> Codes:
        books = (self.brightness, self.colours)
        codes = [
            nearest(part, book) for part, book in zip(self._rows(pictures), books, strict=True)
        ]
        grid = self.grid_of(pictures.shape[2], pictures.shape[3])
        return torch.stack(codes, dim=1).reshape(len(pictures), *grid, 2)

    def _decode(self, grid: Codes) -> Pixels:
        grey = from_patches(self.brightness[grid[..., 0]], self.patch)
        return grey + from_patches(self.colours[grid[..., 1]], self.patch)
