"""What fixes the shape of a vision tower; a model keeps it, and needs nothing of where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
RESIZES = ("bicubic", "bicubic-antialias", "bilinear-antialias")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of a tower, and what it does to pixels."""

    # As a person named it: see `load.load_encoder`.
    name: str
    # Of the files that its weights are of; 16 hex digits.
    digest: str
    # Side of a patch in pixels; rows and columns of patches that it was trained with.
    patch: int
    grid: tuple[int, int]
    # Of the features that come out.
    width: int
    # Mean and deviation of channels, of values in 0..1.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: int = 0
    heads: int = 0
    feed_forward: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-6
    class_token: bool = False
    patch_bias: bool = True
    # Norms before the first and after the last layer.
    pre_norm: bool = False
    final_norm: bool = True
    # Gains on what each half of a layer adds.
    layer_scale: bool = False
    # How the table of positions is brought to another grid.
    resize: str = "bicubic-antialias"
    # Layer norm without weights on what comes out, so that features have unit deviation.
    unit: bool = True
    # Of a tower that is no plain transformer: open_clip's configuration, as JSON. It sees whole
    # pictures of its own size.
    whole: str = ""

    @property
    def patches(self) -> int:
        """Patches that it was trained with."""
        return self.grid[0] * self.grid[1]

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> VisionConfig:
        """Of plain values, where tuples are lists."""
        lists = {name: tuple(facts[name]) for name in ("grid", "mean", "std")}
        return cls(**{**facts, **lists})

    def open_clip(self) -> dict[str, Any]:
        """open_clip's configuration of a tower that is seen whole."""
        found: dict[str, Any] = json.loads(self.whole)
        return found
