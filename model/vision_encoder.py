"""Semantic encoders: patches of a CLIP's vision tower, by open_clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.model.center_crop import resize_center_crop
from gristmill.model.choices import require_known

# Least patches of a picture.
_PLACES = 16


def check_encoder(name: str) -> None:
    """Raise `ConfigurationError` for a name that can be no encoder's: of a folder that is not
    there, or a model or weights that open_clip does not list."""
    if name.startswith("local-dir:"):
        folder = name.removeprefix("local-dir:")
        if not os.path.isdir(folder):
            raise ConfigurationError(f"encoder {name!r}: there is no folder {folder}")
        return
    architecture, _, pretrained = name.partition("/")
    if not pretrained:
        raise ConfigurationError(f"encoder {name!r}: write MODEL/PRETRAINED or local-dir:FOLDER")
    import open_clip

    require_known(f"encoder {name!r}: model", architecture, open_clip.list_models())
    known = open_clip.list_pretrained_tags_by_model(architecture)
    # A file of weights may be named as well, and open_clip takes - for _.
    if not os.path.exists(pretrained) and pretrained.lower().replace("-", "_") not in known:
        require_known(f"encoder {name!r}: weights", pretrained, known)


class SemanticEncoder:
    """Frozen patches of an open_clip vision tower, at unit deviation.

    `name`: "local-dir:FOLDER" of an open_clip model, or "MODEL/PRETRAINED" as open_clip lists them
    ("ViT-B-16-SigLIP/webli"). Raises `MissingWeightsError` where the weights are not to be had.
    """

    def __init__(self, name: str) -> None:
        check_encoder(name)
        import open_clip

        self.name = name
        architecture, _, pretrained = name.partition("/")
        local = name.startswith("local-dir:")
        try:
            model = open_clip.create_model(
                name if local else architecture,
                pretrained=None if local else pretrained,
                require_pretrained=True,
            )
        except Exception as error:
            raise MissingWeightsError(f"encoder {name!r}: {error}") from error
        self._visual = model.visual.eval().requires_grad_(False)
        size = self._visual.image_size
        self.side = int(size[0] if isinstance(size, tuple | list) else size)
        preprocess = open_clip.get_model_preprocess_cfg(model)
        self._mean = torch.tensor(preprocess["mean"]).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"]).view(1, 3, 1, 1)
        grey = np.full((self.side, self.side, 3), 128, np.uint8)
        probe = self.encode([grey])[0]
        self.grid = (probe.shape[0], probe.shape[1])
        self.width = int(probe.shape[2])

    @torch.no_grad()
    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Patches [h, w, width] of the last layer for each uint8 RGB picture of any size."""
        small = np.stack([resize_center_crop(picture, self.side) for picture in pictures])
        pixels = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
        out: Any = self._visual.forward_intermediates(
            (pixels - self._mean) / self._std,
            intermediates_only=True, normalize_intermediates=True, output_fmt="NCHW",
        )  # fmt: skip
        # The last layer; of convolutional towers the last that still tells places apart.
        layers = out["image_intermediates"]
        fine = [layer for layer in layers if layer.shape[2] * layer.shape[3] >= _PLACES]
        grid = (fine or layers)[-1].permute(0, 2, 3, 1).float()
        grid = torch.nn.functional.layer_norm(grid, grid.shape[-1:])
        return list(grid.numpy())
