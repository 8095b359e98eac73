"""One rule, two backends, and nothing leaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from gristmill.model.documents.batch import DRAFT, FULL, NOISE
from gristmill.model.network.attention import TokenMeta, allow, attend, block_mask, make_mask


def _places(seed: int, rows: int = 3, length: int = 24) -> TokenMeta:
    """Random documents with spans of every attn_mode, and padding at the end."""
    rng = np.random.default_rng(seed)
    doc = np.full((rows, length), -1)
    span = np.full((rows, length), -1)
    attn_mode = np.zeros((rows, length), int)
    for row in range(rows):
        at = number = spans = 0
        while at < length - 4:
            end = min(length - 2, at + int(rng.integers(3, 9)))
            doc[row, at:end] = number
            if rng.uniform() < 0.7 and end - at > 2:
                span[row, at + 1 : end] = spans
                attn_mode[row, at + 1 : end] = rng.integers(0, 4)
                spans += 1
            number += rng.uniform() < 0.5
            at = end
    index = torch.arange(length).expand(rows, length)
    return TokenMeta(index, torch.tensor(doc), torch.tensor(span), torch.tensor(attn_mode))


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_is_the_rule(seed: int) -> None:
    places = _places(seed)
    mask = allow(places, places)[:, 0]
    doc, span, attn_mode = places.doc, places.span, places.attn_mode
    for row in range(mask.shape[0]):
        for q in range(mask.shape[1]):
            for k in range(mask.shape[2]):
                same = bool(span[row, q] == span[row, k] and span[row, k] >= 0)
                seen = k <= q or (same and attn_mode[row, q] in (FULL, NOISE))
                hidden = attn_mode[row, k] in (NOISE, DRAFT) and span[row, q] != span[row, k]
                expected = doc[row, q] == doc[row, k] and seen and not hidden
                assert mask[row, q, k] == expected


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_flex_attention_and_masked_attention_agree(heads: tuple[int, int]) -> None:
    places = _places(7, length=128)
    torch.manual_seed(0)
    query = torch.randn(3, heads[0], 128, 16)
    key, value = torch.randn(2, 3, heads[1], 128, 16)
    plain = attend(query, key, value, allow(places, places))
    # Compiled on CUDA; here its definition is run as it stands.
    flex = flex_attention(
        query, key, value, block_mask=block_mask(places), enable_gqa=heads[0] != heads[1]
    )
    assert torch.allclose(plain, flex, atol=1e-5)
    added = attend(query, key, value, make_mask(places))
    assert torch.allclose(plain, added, atol=1e-5)


def test_every_position_sees_itself() -> None:
    mask = allow(_places(1), _places(1))[:, 0]
    assert bool(mask.diagonal(dim1=1, dim2=2)[_places(1).attn_mode <= DRAFT].all())
