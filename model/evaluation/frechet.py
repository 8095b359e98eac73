"""Fréchet distance of pictures to real ones (FID, Heusel et al. 2017), by Inception's features or
by those of a CLIP (Kynkäänniemi et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.pipelines.decode import Image

INCEPTION = "inception"
# Pictures that go through a network at once.
_BATCH = 64


class ClipTower(torch.nn.Module):
    """uint8 pictures [n, 3, side, side] to CLIP embeddings."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        import open_clip

        self.model, self._tokenizer = model, tokenizer
        size = model.visual.image_size
        self.side = int(size[0] if isinstance(size, tuple | list) else size)
        preprocess = open_clip.get_model_preprocess_cfg(model)
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(1, 3, 1, 1))
        with torch.no_grad():
            probe = self(self.pixels([np.zeros((8, 8, 3), np.uint8)]))
        self.num_features = int(probe.shape[1])

    @classmethod
    def load(cls, name: str) -> ClipTower:
        """The CLIP that open_clip knows by "MODEL/PRETRAINED" or "local-dir:FOLDER". Raises
        `MissingWeightsError` where its weights are not to be had."""
        import open_clip

        local = name.startswith("local-dir:")
        architecture, _, pretrained = name.partition("/")
        chosen = name if local else architecture
        try:
            model = open_clip.create_model(
                chosen, pretrained=None if local else pretrained, require_pretrained=True
            )
        except Exception as error:
            raise MissingWeightsError(f"clip {name!r}: {error}") from error
        return cls(model.eval(), open_clip.get_tokenizer(chosen))

    def texts(self, captions: Sequence[str]) -> Float[Tensor, "n features"]:
        """Embeddings of captions."""
        found: Tensor = self.model.encode_text(self._tokenizer(list(captions)))
        return found

    def pixels(self, pictures: Sequence[Image]) -> UInt8[Tensor, "n 3 side side"]:
        """The middle of each."""
        small = np.stack([resize_center_crop(picture, self.side) for picture in pictures])
        return torch.from_numpy(small).permute(0, 3, 1, 2).contiguous()

    def forward(self, pixels: UInt8[Tensor, "n 3 side side"]) -> Float[Tensor, "n features"]:
        """Embeddings."""
        unit = (pixels.float() / 255 - self.mean) / self.std
        found: Tensor = self.model.encode_image(unit)
        return found


def require_torchmetrics() -> None:
    """Raise `ConfigurationError` where the extra `evaluate` is not there."""
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "CLIP score and FID need torchmetrics: pip install 'gristmill[evaluate]'"
        ) from None


@torch.no_grad()
def frechet_distance(
    real: Sequence[Image], made: Sequence[Image], tower: ClipTower | None = None
) -> float:
    """Between the features of two sets of uint8 RGB pictures, which need not be as many; of
    Inception without a tower. Of few pictures it is too high: compare equal numbers only.

    Raises `ConfigurationError` for fewer than two pictures of either, or where a package is
    missing; `MissingWeightsError` where Inception's weights are not to be had.
    """
    require_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(made)) < 2:
        raise ConfigurationError(
            f"{len(real)} real and {len(made)} made pictures; a Fréchet distance wants two of each"
        )
    try:
        distance = FrechetInceptionDistance(feature=tower or 2048, normalize=False)
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Inception's features need torch-fidelity: pip install torch-fidelity; or name a CLIP"
        ) from None
    except OSError as error:
        raise MissingWeightsError(f"Inception's weights cannot be fetched: {error}") from error
    for pictures, is_real in ((real, True), (made, False)):
        for start in range(0, len(pictures), _BATCH):
            part = pictures[start : start + _BATCH]
            pixels = tower.pixels(part) if tower else _stacked(part)
            distance.update(pixels, real=is_real)
    return float(distance.compute())


def _stacked(pictures: Sequence[Image]) -> UInt8[Tensor, "n 3 height width"]:
    """Of one size; Inception brings them to its own."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).contiguous()
