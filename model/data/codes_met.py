"""Which codes of a codec the data has: what a model never meets it can draw by chance alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, SampleError
from gristmill.model.data.planner import Planner

# Pictures that are looked at, and shards that they are of.
_PICTURES, _SHARDS = 2048, 16


def codes_never_met(planner: Planner) -> list[float]:
    """Of each codebook, the share of the codec's own pictures, by places, whose codes none of some
    thousands of the data's pictures has. Empty where that cannot be told: of a codec without codes,
    one that nobody counted the codes of, or data whose codes are not stored."""
    codec = planner.image_tokenizer.codec
    if not codec.discrete or not len(codec.frequencies):
        return []
    sizes = list(codec.vocabularies)
    met = [np.zeros(size, bool) for size in sizes]
    seen = 0
    for codes in _stored(planner):
        for book, known in enumerate(met):
            known[codes[:, book]] = True
        seen += 1
    if not seen:
        return []
    shares = [part.numpy() for part in codec.frequencies.split(sizes)]
    return [float(one[~known].sum()) for one, known in zip(shares, met, strict=True)]


def _stored(planner: Planner) -> Iterator[NDArray[np.int64]]:
    """Codes [places, codebooks] of pictures that are stored, of a few shards of each source."""
    for number, (samples, order) in enumerate(zip(planner.samples, planner.orders, strict=True)):
        there = [shard for shard in range(len(order.rows)) if order.count(shard)]
        chosen = [there[int(i)] for i in np.linspace(0, len(there) - 1, min(_SHARDS, len(there)))]
        each = -(-_PICTURES // max(1, len(chosen) * len(planner.samples)))
        for shard in chosen:
            if "image_codes" not in samples.table(shard).column_names:
                break
            for row in order.numbers(shard)[:each].tolist():
                columns = planner.columns(number, shard, row)
                if planner.image_tokenizer.needs_pixels(columns):
                    continue
                try:
                    codes = planner.image_tokenizer.stored(columns).codes
                except (ConfigurationError, SampleError):
                    continue
                if codes is not None:
                    yield codes.reshape(-1, codes.shape[-1])
