"""A codec that spells shape and colour apart: a pattern, and the two colours it lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, Codes, Pixels, from_patches, nearest, to_patches
from gristmill.model.codecs.patches import contrast_of, find_means

# Patches that patterns are found of, for each of them; rounds of finding them.
_PATCHES, _ROUNDS = 60, 20


class TwoColourCodec(Codec):
    """Each patch is a pattern of values in 0..1, one a pixel, between two colours, as in block
    truncation coding (Delp and Mitchell 1979) and the textures of graphics cards. Patterns have one
    codebook, pairs of colours another.

    An edge says where two colours meet, not which. A shape in a colour that it never had in
    training is spelt with codes that were met: its edges in other colours, its colours with other
    shapes.
    """

    kind = "two-colour"
    discrete = True
    is_network = False
    patterns: Tensor
    palettes: Tensor

    def __init__(
        self, *, side: int = 24, patch: int = 4, sizes: Sequence[int] = (256, 256)
    ) -> None:
        super().__init__(side=side, patch=patch)
        if len(sizes) != 2:
            raise ConfigurationError(f"sizes {tuple(sizes)}: write those of patterns and colours")
        self.sizes = (int(sizes[0]), int(sizes[1]))
        self.register_buffer("patterns", torch.zeros(self.sizes[0], patch * patch))
        # Where the pattern is 0, and where it is 1.
        self.register_buffer("palettes", torch.zeros(self.sizes[1], 6))

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return self.sizes

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "patch": self.patch, "sizes": self.sizes}

    def code_features(self) -> list[Tensor]:
        """The patterns, and the pairs of colours."""
        return [self.patterns, self.palettes]

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find patterns, then colours; raises `ConfigurationError` for fewer patches than codes."""
        means, rest = self._parts(pictures)
        if len(means) < max(self.sizes):
            raise ConfigurationError(f"{len(means)} patches for {self.sizes} codes; give more")
        generator = torch.Generator().manual_seed(seed)
        # Patches of one colour have no pattern, and are most.
        weights = (rest**2).mean(dim=(1, 2)) + 1e-3
        drawn = torch.multinomial(
            weights[: 2**24], _PATCHES * self.sizes[0], replacement=True, generator=generator
        )
        rows = torch.nn.functional.normalize(rest[drawn].flatten(1), dim=1).view_as(rest[drawn])
        lines = _find_lines(rows, self.sizes[0], generator)
        low, high = lines.amin(dim=1, keepdim=True), lines.amax(dim=1, keepdim=True)
        self.patterns.copy_((lines - low) / (high - low).clamp_min(1e-6))
        pairs = self._colours(means, rest, _likest(rest, self._lines()))
        contrast = contrast_of(pairs.unflatten(1, (2, 3)).transpose(1, 2))
        self.palettes.copy_(find_means(pairs, contrast, self.sizes[1], generator, seed + 1))

    def _parts(self, pictures: Pixels) -> tuple[Tensor, Tensor]:
        """Mean colour of each patch [n, 3], and what is left [n, 3, pixels]."""
        rows = to_patches(pictures, self.patch).flatten(0, 2).unflatten(1, (3, -1))
        means = rows.mean(dim=2)
        return means, rows - means[..., None]

    def _lines(self) -> Float32[Tensor, "patterns pixels"]:
        """Patterns of mean zero and unit length."""
        centred = self.patterns - self.patterns.mean(dim=1, keepdim=True)
        return torch.nn.functional.normalize(centred, dim=1)

    def _colours(self, means: Tensor, rest: Tensor, which: Tensor) -> Float32[Tensor, "n 6"]:
        """The two colours that fit each patch best, given its pattern (least squares)."""
        pattern = self.patterns[which]
        centred = pattern - pattern.mean(dim=1, keepdim=True)
        slope = torch.einsum("ncp,np->nc", rest, centred)
        slope = slope / (centred**2).sum(dim=1, keepdim=True).clamp_min(1e-6)
        first = means - slope * pattern.mean(dim=1, keepdim=True)
        return torch.cat([first, first + slope], dim=1)

    def _encode(self, pictures: Pixels) -> Codes:
        means, rest = self._parts(pictures)
        which = _likest(rest, self._lines())
        colours = nearest(self._colours(means, rest, which), self.palettes)
        grid = self.grid_of(pictures.shape[2], pictures.shape[3])
        return torch.stack([which, colours], dim=1).reshape(len(pictures), *grid, 2)

    def _decode(self, grid: Codes) -> Pixels:
        pattern = self.patterns[grid[..., 0]][..., None, :]
        first, second = self.palettes[grid[..., 1]][..., None].split(3, dim=-2)
        return from_patches((first + (second - first) * pattern).flatten(3), self.patch)


def _likest(
    rows: Float32[Tensor, "patches channels pixels"], lines: Float32[Tensor, "patterns pixels"]
) -> Tensor:
    """The line that most of each patch lies along, either way round."""
    at_once = max(1, 2**24 // (3 * len(lines)))
    found = [((part @ lines.T) ** 2).sum(dim=1).argmax(dim=1) for part in rows.split(at_once)]
    return torch.cat(found)


def _find_lines(
    rows: Float32[Tensor, "patches channels pixels"], count: int, generator: torch.Generator
) -> Float32[Tensor, "count pixels"]:
    """Lines through the origin that patches lie near: k-means of directions, where each round moves
    a line one step of the power method towards the main axis of its patches."""
    order = torch.randperm(len(rows), generator=generator)
    # To begin with, channels of patches as they are.
    lines = _strongest(rows[order[:count]])
    for _ in range(_ROUNDS):
        which = _likest(rows, lines)
        along = torch.einsum("ncp,np->nc", rows, lines[which])
        moved = torch.zeros_like(lines).index_add_(
            0, which, torch.einsum("nc,ncp->np", along, rows)
        )
        lost = (moved == 0).all(dim=1)
        spare = torch.randint(len(rows), (int(lost.sum()),), generator=generator)
        moved[lost] = _strongest(rows[spare])
        lines = torch.nn.functional.normalize(moved, dim=1)
    return lines


def _strongest(rows: Tensor) -> Tensor:
    """The channel of each patch that has the most of it, at unit length."""
    best = (rows**2).sum(dim=2).argmax(dim=1)
    return torch.nn.functional.normalize(rows[torch.arange(len(rows)), best], dim=1)
