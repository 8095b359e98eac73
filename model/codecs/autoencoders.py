"""Codecs that are trained: autoencoders with quantised or with smooth latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, Codes, Latents, Pixels, from_patches, to_patches


class _Block(nn.Module):
    """Residual 3x3 convolutions on the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(self.norm(x))))
        return out


class _AutoEncoder(Codec):
    """Patches of `stem` px -> width -> blocks -> bottleneck -> blocks -> patches."""

    def __init__(
        self,
        *,
        side: int,
        patch: int,
        stem: int,
        width: int,
        blocks: int,
        in_features: int,
        out_features: int,
    ) -> None:
        super().__init__(side=side, patch=patch)
        self.stem, self.width, self.blocks = stem, width, blocks
        pixels = 3 * stem * stem
        self.down = nn.Sequential(
            nn.Conv2d(pixels, width, 1),
            *[_Block(width) for _ in range(blocks)],
            nn.Conv2d(width, out_features, 1),
        )
        self.up = nn.Sequential(
            nn.Conv2d(in_features, width, 1),
            *[_Block(width) for _ in range(blocks + 1)],
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, pixels, 3, padding=1),
        )

    def _down(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.down(F.pixel_unshuffle(pictures, self.stem))
        return out.permute(0, 2, 3, 1)

    def _up(self, grid: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up(grid.permute(0, 3, 1, 2)), self.stem)


class FsqCodec(_AutoEncoder):
    """Finite scalar quantisation (Mentzer et al. 2023): each latent channel is rounded to a few
    levels, so there is no codebook to collapse. Several tuples of levels are several codebooks,
    and each place is then spelt with one code of each (factorised codes)."""

    kind = "fsq"
    discrete = True
    counts: Tensor

    def __init__(
        self,
        *,
        side: int = 24,
        patch: int = 4,
        width: int = 96,
        blocks: int = 2,
        levels: Sequence[Sequence[int]] = ((8, 6, 5, 4),),
    ) -> None:
        self.levels = tuple(tuple(int(n) for n in group) for group in levels)
        flat = [n for group in self.levels for n in group]
        if not flat or min(flat) < 2:
            raise ConfigurationError(f"levels {levels}: give at least two to each channel")
        super().__init__(
            side=side, patch=patch, stem=patch, width=width, blocks=blocks,
            in_features=len(flat), out_features=len(flat),
        )  # fmt: skip
        self.register_buffer("counts", torch.tensor(flat), persistent=False)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return tuple(math.prod(group) for group in self.levels)

    def fields(self) -> Mapping[str, object]:
        return {
            "side": self.side, "patch": self.patch, "width": self.width, "blocks": self.blocks,
            "levels": self.levels,
        }  # fmt: skip

    def code_features(self) -> list[Tensor]:
        """The digits of each code."""
        features = []
        for group in self.levels:
            scales = [torch.linspace(-1, 1, count) for count in group]
            features.append(torch.cartesian_prod(*scales).reshape(-1, len(group)))
        return features

    def _digits(self, pictures: Tensor) -> Tensor:
        """Positions on each scale, 0..levels-1, not yet rounded: [n, h, w, channels]."""
        top = (self.counts - 1).float()
        return (torch.tanh(self._down(pictures)) + 1) / 2 * top

    def _from_digits(self, digits: Tensor) -> Tensor:
        return self._up(digits / (self.counts - 1) * 2 - 1)

    def _encode(self, pictures: Pixels) -> Codes:
        digits = self._digits(pictures).round().long()
        codes, at = [], 0
        for group in self.levels:
            code = torch.zeros_like(digits[..., 0])
            for count in group:
                code = code * count + digits[..., at]
                at += 1
            codes.append(code)
        return torch.stack(codes, dim=-1)

    def _decode(self, grid: Codes) -> Pixels:
        digits: list[Tensor] = []
        for index, group in enumerate(self.levels):
            code, places = grid[..., index], []
            for count in reversed(group):
                places.append(code % count)
                code = code // count
            digits += reversed(places)
        return self._from_digits(torch.stack(digits, dim=-1).float())

    def loss(self, pictures: Pixels) -> Float32[Tensor, ""]:
        """Squared error through straight-through rounding."""
        digits = self._digits(pictures)
        rounded = digits + (digits.round() - digits).detach()
        return F.mse_loss(self._from_digits(rounded), pictures)


class VaeCodec(_AutoEncoder):
    """A small variational autoencoder (Kingma & Welling 2013): smooth latents for flow. Latents
    are scaled to unit deviation by what was measured at the end of training.

    A place is `latent_patch` x `latent_patch` latents of the network, packed: they lie closer, and
    a picture still has one place for each `patch` pixels.
    """

    kind = "vae"
    discrete = False
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        side: int = 24,
        patch: int = 4,
        width: int = 96,
        blocks: int = 2,
        latent: int = 16,
        latent_patch: int = 1,
        kl: float = 1e-4,
    ) -> None:
        self.latent, self.latent_patch, self.kl = latent, latent_patch, kl
        if latent_patch < 1 or patch % latent_patch:
            raise ConfigurationError(
                f"a patch of {patch} px is not a multiple of a latent_patch of {latent_patch}"
            )
        super().__init__(
            side=side, patch=patch, stem=patch // latent_patch, width=width, blocks=blocks,
            in_features=latent, out_features=2 * latent,
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("spread", torch.ones(self.channels))

    @property
    def channels(self) -> int:
        return self.latent * self.latent_patch**2

    def fields(self) -> Mapping[str, object]:
        return {
            "side": self.side, "patch": self.patch, "width": self.width, "blocks": self.blocks,
            "latent": self.latent, "latent_patch": self.latent_patch, "kl": self.kl,
        }  # fmt: skip

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the latents, after training."""
        with torch.no_grad():
            parts = [self._means(part) for part in pictures.split(256)]
        rows = torch.cat(parts).reshape(-1, self.channels)
        self.mean.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0).clamp_min(1e-3))

    def _means(self, pictures: Pixels) -> Latents:
        """Means of the posterior, packed."""
        means = self._down(pictures)[..., : self.latent].permute(0, 3, 1, 2)
        return to_patches(means, self.latent_patch)

    def _encode(self, pictures: Pixels) -> Latents:
        return (self._means(pictures) - self.mean) / self.spread

    def _decode(self, grid: Latents) -> Pixels:
        latents = from_patches(grid * self.spread + self.mean, self.latent_patch)
        return self._up(latents.permute(0, 2, 3, 1))

    def loss(self, pictures: Pixels) -> Float32[Tensor, ""]:
        """Squared error + kl * divergence from a normal of unit variance."""
        mean, log_var = self._down(pictures).chunk(2, dim=-1)
        log_var = log_var.clamp(-12, 4)
        sampled = mean + torch.randn_like(mean) * (log_var / 2).exp()
        divergence = (mean**2 + log_var.exp() - 1 - log_var).mean() / 2
        return F.mse_loss(self._up(sampled), pictures) + self.kl * divergence
