"""What is taken from a document for a model to put back: tokens behind masks, latents in noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from gristmill.model.batch import IGNORE
from gristmill.model.vocabulary import MASK

if TYPE_CHECKING:
    from gristmill.model.documents import DocumentLayout


def mask_tokens(
    ids: Int64[np.ndarray, " n"], rng: np.random.Generator, weight: float, share: float
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Mask a share of ids, at least one: ids, labels in place, and weights of sum
    weight * sqrt(length) whatever the share (that is, 1 / p of the weight of a shifted label)."""
    count = max(1, math.ceil(share * len(ids)))
    chosen = rng.permutation(len(ids))[:count]
    masked, labels = ids.copy(), np.full(len(ids), IGNORE, np.int64)
    masked[chosen], labels[chosen] = MASK, ids[chosen]
    per = np.zeros(len(ids), np.float32)
    per[chosen] = weight * math.sqrt(len(ids)) / count
    return masked, labels, per


def draw_noise(
    places: int, layout: DocumentLayout, rng: np.random.Generator
) -> tuple[float, Float32[np.ndarray, "places channels"]]:
    """The time of a flow, shifted towards noise as the layout says, and the noise itself."""
    t = 1 / (1 + math.exp(-(layout.time_mean + rng.standard_normal())))
    shift = layout.shift(places)
    t = shift * t / (1 + (shift - 1) * t)
    return t, rng.standard_normal((places, layout.latent_channels), np.float32)
