"""Who sees whom: one rule, two backends that are tested equal.

allow(q, k) = doc[q] == doc[k]
              and (k <= q or (seg[q] == seg[k] >= 0 and kind[q] >= 1))
              and not (kind[k] == 2 and seg[q] != seg[k])
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.model.batch import FULL, NOISE


@dataclass
class Places:
    """Where positions stand: all [B, L]. `index` orders them."""

    index: Tensor
    doc: Tensor
    seg: Tensor
    kind: Tensor

    def join(self, other: Places) -> Places:
        """These, then the others."""
        return Places(
            torch.cat([self.index, other.index], dim=1),
            torch.cat([self.doc, other.doc], dim=1),
            torch.cat([self.seg, other.seg], dim=1),
            torch.cat([self.kind, other.kind], dim=1),
        )


def allow(queries: Places, keys: Places) -> Tensor:
    """The rule as a boolean mask, [B, 1, Lq, Lk]; True is seen. Padding sees padding."""
    same_doc = queries.doc[:, :, None] == keys.doc[:, None]
    before = keys.index[:, None] <= queries.index[:, :, None]
    same_seg = (queries.seg[:, :, None] == keys.seg[:, None]) & (keys.seg[:, None] >= 0)
    spans = same_seg & (queries.kind[:, :, None] >= FULL)
    hidden = (keys.kind[:, None] == NOISE) & ~same_seg
    return (same_doc & (before | spans) & ~hidden)[:, None]


def block_mask(places: Places) -> Any:
    """The same rule as a FlexAttention BlockMask, for positions that see one another."""
    from torch.nn.attention.flex_attention import create_block_mask

    doc, seg, kind = places.doc, places.seg, places.kind

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same_seg = (seg[b, q] == seg[b, k]) & (seg[b, k] >= 0)
        seen = (k <= q) | (same_seg & (kind[b, q] >= FULL))
        return (doc[b, q] == doc[b, k]) & seen & ~((kind[b, k] == NOISE) & ~same_seg)

    rows, length = doc.shape
    return create_block_mask(rule, rows, None, length, length, device=doc.device.type)


def make_mask(places: Places) -> Any:
    """What `attend` takes: a BlockMask on CUDA, a boolean mask elsewhere."""
    if places.doc.device.type == "cuda":
        return block_mask(places)
    return allow(places, places)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
    """[B, H, Lq, D] over [B, Hkv, Lk, D]; heads share keys in groups."""
    grouped = query.shape[1] != key.shape[1]
    if not isinstance(mask, Tensor):
        out: Tensor = _compiled_flex()(query, key, value, block_mask=mask, enable_gqa=grouped)
        return out
    if query.device.type == "cpu":
        # The CPU kernel is three times as fast in float32 as in bfloat16.
        with torch.autocast("cpu", enabled=False):
            wide = query.float(), key.float(), value.float()
            seen = F.scaled_dot_product_attention(*wide, attn_mask=mask, enable_gqa=grouped)
            return seen.to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)


@functools.cache
def _compiled_flex() -> Any:
    """FlexAttention is fast only when compiled; once for the process."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
