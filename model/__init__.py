"""What trains on shards: the unified model, its codecs, its trainer.

`gristmill.model.load("checkpoints/x")` gives a model that draws, describes, answers and edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill.model.sampling.unified import Unified

__all__ = ["load"]


def load(folder: str, device: str = "") -> Unified:
    """The model that a training left in a folder; "cuda" where there is one, unless told."""
    from gristmill.model.sampling.unified import load as load_unified

    return load_unified(folder, device)
