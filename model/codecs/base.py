"""What an image codec is: pictures to a grid of codes or of latents, and back."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.errors import ConfigurationError


class Codec(nn.Module):
    """Pictures [n, 3, side, side] in -1..1 to a grid of side / patch and back."""

    kind: ClassVar[str]
    # Whether `encode` gives codes (int64) rather than latents (float32).
    discrete: ClassVar[bool]

    def __init__(self, *, side: int, patch: int) -> None:
        super().__init__()
        if side % patch:
            raise ConfigurationError(f"a side of {side} px is not a multiple of a patch of {patch}")
        self.side, self.patch = side, patch
        # Reconstruction measured on held-out pictures: psnr (dB), mse (0..1 squared).
        self.ceiling: dict[str, float] = {}
        # Of its file, 16 hex digits; empty before it was written. Tokens and models of different
        # codecs must not meet.
        self.digest = ""
        # How often each code of all codebooks was met in training, one after the other.
        self.frequencies = torch.zeros(0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.side // self.patch, self.side // self.patch

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Codes in each of the codebooks; one code of each is spent at every place."""
        return ()

    @property
    def channels(self) -> int:
        """Channels of a latent, 0 for codes."""
        return 0

    def fields(self) -> dict[str, Any]:
        """What the constructor takes."""
        raise NotImplementedError

    def code_features(self) -> list[Tensor]:
        """What the codes of each codebook stand for, [codes, features]: like codes are alike."""
        return []

    def encode(self, pictures: Tensor) -> Tensor:
        """[n, 3, side, side] -> [n, h, w, codebooks] int64 or [n, h, w, channels] float32."""
        raise NotImplementedError

    def decode(self, grid: Tensor) -> Tensor:
        """The inverse of `encode`, as far as it goes."""
        raise NotImplementedError

    def loss(self, pictures: Tensor) -> Tensor:
        """What training minimises; codecs that are fitted rather than trained have none."""
        raise NotImplementedError


def to_patches(pictures: Tensor, patch: int) -> Tensor:
    """[n, 3, s, s] -> [n, s/p, s/p, 3*p*p]."""
    return F.pixel_unshuffle(pictures, patch).permute(0, 2, 3, 1)


def from_patches(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`."""
    return F.pixel_shuffle(patches.permute(0, 3, 1, 2), patch)


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 [n, s, s, 3] -> float32 [n, 3, s, s] in -1..1."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def to_bytes(pictures: Tensor) -> Tensor:
    """The inverse of `to_unit`, rounded."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def balancing_weights(codec: Codec, power: float) -> Tensor:
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
