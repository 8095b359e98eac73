"""Towers of open_clip that are no plain transformers: each picture is seen whole, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gristmill.model.encoders.config import VisionConfig
from gristmill.model.encoders.vit import pixels

# Least patches of a picture.
_PLACES = 16


class WholeTower(nn.Module):
    """A frozen tower of open_clip over pictures of its own square size."""

    def __init__(self, config: VisionConfig, visual: Any = None) -> None:
        super().__init__()
        self.config = config
        if visual is None:
            import open_clip

            visual = open_clip.CLIP(**config.open_clip()).visual
        self.visual = visual.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> WholeTower:
        """Batch norms of a frozen tower keep their statistics."""
        return super().train(False)

    def forward(
        self, patches: UInt8[Tensor, "patches values"], grids: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "patches width"]:
        """As `VisionTransformer.forward`; all grids are the tower's own."""
        config, (rows, columns) = self.config, self.config.grid
        assert all(grid == config.grid for grid in grids), grids
        values = pixels(patches, config)
        values = values.view(len(grids), rows, columns, config.patch, config.patch, 3)
        whole = values.permute(0, 5, 1, 3, 2, 4)
        whole = whole.reshape(len(grids), 3, rows * config.patch, columns * config.patch)
        with torch.autocast(whole.device.type, enabled=False):
            grid = fine_layer(self.visual, whole).permute(0, 2, 3, 1).flatten(0, 2)
        return F.layer_norm(grid.float(), grid.shape[-1:]) if config.unit else grid.float()


@torch.no_grad()
def fine_layer(visual: Any, pictures: Tensor) -> Tensor:
    """[n, 3, side, side] -> [n, width, rows, columns]: the last layer; of convolutional towers the
    last that still tells places apart."""
    out = visual.forward_intermediates(
        pictures, intermediates_only=True, normalize_intermediates=True, output_fmt="NCHW"
    )
    layers: list[Tensor] = out["image_intermediates"]
    fine = [layer for layer in layers if layer.shape[2] * layer.shape[3] >= _PLACES]
    return (fine or layers)[-1]
