"""What is taken from a document for a model to put back: tokens behind masks, latents in noise."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Int64

from gristmill.model.documents.batch import IGNORE
from gristmill.model.documents.vocabulary import MASK


def mask_tokens(
    ids: Int64[np.ndarray, " n"], rng: np.random.Generator, weight: float, share: float
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Mask a share of ids, at least one: ids, labels in place, and weights of sum `weight` whatever
    the share (that is, 1 / p of the weight of a shifted label)."""
    count = max(1, math.ceil(share * len(ids)))
    chosen = rng.permutation(len(ids))[:count]
    masked, labels = ids.copy(), np.full(len(ids), IGNORE, np.int64)
    masked[chosen], labels[chosen] = MASK, ids[chosen]
    per = np.zeros(len(ids), np.float32)
    per[chosen] = weight / count
    return masked, labels, per


def draw_times(
    mean: float, shift: float, rng: np.random.Generator, *, count: int
) -> Float32[np.ndarray, " {count}"]:
    """Times of flows, 0 to 1, logit-normal and shifted towards noise (Esser et al. 2024)."""
    t = 1 / (1 + np.exp(-(mean + rng.standard_normal(count))))
    times: Float32[np.ndarray, " {count}"] = (shift * t / (1 + (shift - 1) * t)).astype(np.float32)
    return times


def draw_noise(
    places: int, channels: int, rng: np.random.Generator
) -> Float32[np.ndarray, "{places} {channels}"]:
    """Noise for each latent of a picture."""
    return rng.standard_normal((places, channels), np.float32)
