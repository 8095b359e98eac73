"""The codec of a model that has only read so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import nn

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, Grid, Pixels


class NoPictures(Codec):
    """No codes and no latents: who asks for a picture is told how the model gets to know them."""

    kind = "none"
    discrete = True

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.ceiling, self.digest, self.frequencies = {}, "", torch.zeros(0)

    @property
    def patch(self) -> int:  # type: ignore[override]
        """There is none."""
        _refuse()

    @property
    def side(self) -> int:  # type: ignore[override]
        """There is none."""
        _refuse()

    def fields(self) -> Mapping[str, object]:
        """Nothing fixes it."""
        return {}

    def _encode(self, pictures: Pixels) -> Grid:
        _refuse()

    def _decode(self, grid: Grid) -> Pixels:
        _refuse()


def _refuse() -> NoReturn:
    raise ConfigurationError(
        "this model reads and writes text alone; it learns pictures by gristmill train with --init "
        "and a --codec"
    )
