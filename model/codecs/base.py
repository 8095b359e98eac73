"""What an image codec is: pictures to a grid of codes or of latents, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor, nn

from gristmill.errors import ConfigurationError

Pixels: TypeAlias = Float32[Tensor, "n 3 height width"]
"""RGB in -1..1."""
Bytes: TypeAlias = UInt8[Tensor, "n height width 3"]
"""RGB in 0..255, as files have it."""
Codes: TypeAlias = Int64[Tensor, "n rows columns codebooks"]
Latents: TypeAlias = Float32[Tensor, "n rows columns channels"]
Grid: TypeAlias = Shaped[Tensor, "n rows columns depth"]
"""Codes or latents."""


class Codec(nn.Module):
    """Pictures whose sides are multiples of `patch` to a grid of their sides / patch, and back."""

    kind: ClassVar[str]
    # Whether `encode` gives codes (int64) rather than latents (float32).
    discrete: ClassVar[bool]
    # Whether it is a network, which the training step runs on its device, and no table or matrix.
    is_network: ClassVar[bool] = True

    def __init__(self, *, side: int, patch: int) -> None:
        super().__init__()
        if side % patch:
            raise ConfigurationError(f"a side of {side} px is not a multiple of a patch of {patch}")
        # Pixels: of the squares that it is trained on, and of the side of one place of the grid.
        self.side, self.patch = side, patch
        # Whether it gives pictures back; some that others released only see them.
        self.decodes = True
        # Reconstruction measured on held-out pictures: psnr (dB), mse (0..1 squared).
        self.ceiling: dict[str, float] = {}
        # Of its file, 16 hex digits; empty before it was written. Tokens and models of different
        # codecs must not meet.
        self.digest = ""
        # How often each code of all codebooks was met in training, one after the other.
        self.frequencies = torch.zeros(0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the squares that it is trained on."""
        return self.grid_of(self.side, self.side)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a picture of so many pixels. Raises `ConfigurationError` for what is
        no multiple of the patch."""
        if height % self.patch or width % self.patch or not height or not width:
            raise ConfigurationError(
                f"a picture of {width}x{height} px: sides must be multiples of {self.patch} px, "
                f"the patch of the {self.kind} codec"
            )
        return height // self.patch, width // self.patch

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Codes in each of the codebooks; one code of each is spent at every place."""
        return ()

    @property
    def channels(self) -> int:
        """Channels of a latent, 0 for codes."""
        return 0

    def fields(self) -> Mapping[str, object]:
        """What the constructor takes."""
        raise NotImplementedError

    def code_features(self) -> list[Tensor]:
        """What the codes of each codebook stand for, [codes, features]: like codes are alike."""
        return []

    def encode(self, pictures: Pixels) -> Grid:
        """Codes or latents of pictures of one size. Raises `ConfigurationError` for sides that are
        no multiples of the patch."""
        self.grid_of(pictures.shape[2], pictures.shape[3])
        return self._encode(pictures)

    def decode(self, grid: Grid) -> Pixels:
        """The inverse of `encode`, as far as it goes."""
        return self._decode(grid).clamp(-1, 1)

    def _encode(self, pictures: Pixels) -> Grid:
        raise NotImplementedError

    def _decode(self, grid: Grid) -> Pixels:
        raise NotImplementedError

    def loss(self, pictures: Pixels) -> Float32[Tensor, ""]:
        """What training minimises; codecs that are fitted rather than trained have none."""
        raise NotImplementedError


def to_patches(
    pictures: Float32[Tensor, "n channels height width"], patch: int
) -> Float32[Tensor, "n rows columns features"]:
    """Patches of `patch` x `patch` pixels, each in a row: features are channels * patch * patch, in
    this order, as FLUX packs its latents."""
    return F.pixel_unshuffle(pictures, patch).permute(0, 2, 3, 1)


def from_patches(
    patches: Float32[Tensor, "n rows columns features"], patch: int
) -> Float32[Tensor, "n channels height width"]:
    """The inverse of `to_patches`."""
    return F.pixel_shuffle(patches.permute(0, 3, 1, 2), patch)


def nearest(
    rows: Float32[Tensor, "rows features"], codes: Float32[Tensor, "codes features"]
) -> Int64[Tensor, " rows"]:
    """Index of the nearest code of each row."""
    half = (codes**2).sum(dim=1) / 2
    # At most 128 MB of distances at once.
    at_once = max(1, min(2**14, 2**25 // len(codes)))
    return torch.cat([(half - part @ codes.T).argmin(dim=1) for part in rows.split(at_once)])


def to_unit(pictures: Bytes) -> Pixels:
    """0..255 -> -1..1."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def to_bytes(pictures: Pixels) -> Bytes:
    """The inverse of `to_unit`, rounded."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def balancing_weights(codec: Codec, power: float) -> Float32[Tensor, " codes"]:
    """A weight for each code, frequency ** -power, of mean one over what is met, 0.1 to 10.

    Most codes of a picture are of its ground and mostly noise; weighted so, what is rare is learnt
    sooner. A model that was trained so has learnt p * weight, which samplers undo by subtracting
    log(weight) (logit adjustment, Menon et al. 2020).
    """
    if not len(codec.frequencies):
        return torch.ones(sum(codec.vocabularies))
    parts = []
    for shares in codec.frequencies.split(list(codec.vocabularies)):
        weight = shares**-power
        weight = (weight / (weight * shares).sum()).clamp(0.1, 10)
        parts.append(weight / (weight * shares).sum())
    return torch.cat(parts)
