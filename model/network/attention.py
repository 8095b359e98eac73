"""Who sees whom: one rule, two backends that are tested equal.

allow(q, k) = doc[q] == doc[k]
              and (k <= q or (span[q] == span[k] >= 0 and attn_mode[q] in (FULL, NOISE)))
              and not (attn_mode[k] in (NOISE, DRAFT) and span[q] != span[k])
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.model.documents.batch import FULL, NOISE

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Mask: TypeAlias = "Tensor | BlockMask"
"""Numbers to add to the logits, [B, 1, Lq, Lk], or a mask of FlexAttention."""


@dataclass
class TokenMeta:
    """Where positions stand: all [B, L]. `index` orders them."""

    index: Tensor
    doc: Tensor
    span: Tensor
    attn_mode: Tensor

    def join(self, other: TokenMeta) -> TokenMeta:
        """These, then the others."""
        return TokenMeta(
            torch.cat([self.index, other.index], dim=1),
            torch.cat([self.doc, other.doc], dim=1),
            torch.cat([self.span, other.span], dim=1),
            torch.cat([self.attn_mode, other.attn_mode], dim=1),
        )


def allow(queries: TokenMeta, keys: TokenMeta) -> Tensor:
    """The rule as a boolean mask, [B, 1, Lq, Lk]; True is seen. Padding sees padding."""
    same_doc = queries.doc[:, :, None] == keys.doc[:, None]
    before = keys.index[:, None] <= queries.index[:, :, None]
    same_span = (queries.span[:, :, None] == keys.span[:, None]) & (keys.span[:, None] >= 0)
    mode = queries.attn_mode[:, :, None]
    spans = same_span & ((mode == FULL) | (mode == NOISE))
    hidden = (keys.attn_mode[:, None] >= NOISE) & ~same_span
    return (same_doc & (before | spans) & ~hidden)[:, None]


def block_mask(meta: TokenMeta, build: Callable[..., BlockMask] | None = None) -> BlockMask:
    """The same rule as a FlexAttention BlockMask, for positions that see one another. `build`:
    `create_block_mask`, or what it was compiled to, which never has a mask of L x L."""
    from torch.nn.attention.flex_attention import create_block_mask

    build = build or create_block_mask
    doc, span, attn_mode = meta.doc, meta.span, meta.attn_mode

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same_span = (span[b, q] == span[b, k]) & (span[b, k] >= 0)
        mode = attn_mode[b, q]
        seen = (k <= q) | (same_span & ((mode == FULL) | (mode == NOISE)))
        return (doc[b, q] == doc[b, k]) & seen & ~((attn_mode[b, k] >= NOISE) & ~same_span)

    rows, length = doc.shape
    return build(rule, rows, None, length, length, device=doc.device.type)


def make_mask(meta: TokenMeta) -> Mask:
    """What `attend` takes: a BlockMask on CUDA, numbers to add to the logits elsewhere, which the
    kernels would make of a boolean mask anew in every layer."""
    if meta.doc.device.type == "cuda":
        return block_mask(meta, _compiled_block_mask())
    hidden = ~allow(meta, meta)
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)


def kernel_dtype(value: Tensor) -> torch.dtype:
    """What `attend` is fast in: on a CPU float32, three times as fast as bfloat16."""
    return torch.float32 if value.device.type == "cpu" else value.dtype


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """[B, H, Lq, D] over [B, Hkv, Lk, D]; heads share keys in groups."""
    if not isinstance(mask, Tensor):
        return _flex(query, key, value, mask)
    group = query.shape[1] // key.shape[1]
    if query.device.type == "cuda" and group > 1:
        # Of CUDA's kernels that take a mask, those that know groups lay out all logits at once.
        key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
        group = 1
    # Autocast would cast to bfloat16 what is float32 on purpose.
    with torch.autocast(query.device.type, enabled=False):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=group > 1
        )


# Numbers to a head that CUDA's kernel has at least.
_LEAST_HEAD = 16


def _flex(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    dim = query.shape[-1]
    if dim < _LEAST_HEAD:
        query, key, value = (F.pad(t, (0, _LEAST_HEAD - dim)) for t in (query, key, value))
    # Inside of what is compiled already it is compiled with the rest.
    flex: Callable[..., Tensor]
    if torch.compiler.is_compiling():
        flex = flex_attention
    else:
        flex = _compiled_flex()
    out: Tensor = flex(
        query, key, value, block_mask=mask, scale=dim**-0.5,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out[..., :dim]


@functools.cache
def _compiled_block_mask() -> Callable[..., BlockMask]:
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask)


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    """FlexAttention is fast only when compiled; once for the process."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
