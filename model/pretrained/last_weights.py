"""The weights of the last step of a training, as they lie in its checkpoint, not averaged."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.checkpoint import steps

_PREFIX = "model."


class LastWeights:
    """Tensors of the newest checkpoint of a training's folder, read when they are asked for.

    Raises `ConfigurationError` for a folder without one.
    """

    def __init__(self, folder: str) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        checkpoints = os.path.join(folder, "checkpoints")
        known = steps(checkpoints)
        if not known:
            raise ConfigurationError(
                f"{folder} has no checkpoint of a training, and so no weights but the averaged "
                "ones; leave --weights out"
            )
        self._path = os.path.join(checkpoints, f"step-{known[-1]:08d}")
        metadata = FileSystemReader(self._path).read_metadata().state_dict_metadata
        self._tensors = {
            name.removeprefix(_PREFIX): facts
            for name, facts in metadata.items()
            if name.startswith(_PREFIX) and isinstance(facts, TensorStorageMetadata)
        }

    def names(self) -> list[str]:
        """All parameters."""
        return list(self._tensors)

    def read(self, name: str) -> Tensor:
        """One of them, whole, from however many ranks wrote it."""
        from torch.distributed.checkpoint.state_dict_loader import load

        facts = self._tensors[name]
        value = torch.empty(facts.size, dtype=facts.properties.dtype)
        with warnings.catch_warnings():
            # One process needs no process group.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load({f"{_PREFIX}{name}": value}, checkpoint_id=self._path)
        return value
