"""Cross entropy over a large vocabulary, a few labels at a time: logits of all labels at once, of
16,384 labels and 152,000 ids 10 GB in float32, are never there, forward or backward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Logits in float32 at a time: 256 MB.
_AT_ONCE = 2**26


def chunked_cross_entropy(
    hidden: Float[Tensor, "labels width"],
    weight: Float[Tensor, "ids width"],
    labels: Int64[Tensor, " labels"],
) -> tuple[Float[Tensor, " labels"], Float[Tensor, " labels"]]:
    """The cross entropy of each label and the log of the partition sum of its logits, both in
    float32. Logits are matmuls in the precision of autocast, and computed anew in the backward
    pass."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    entropies, partitions = _CrossEntropy.apply(hidden, weight, labels, dtype)
    return entropies, partitions


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        partitions = hidden.new_empty(len(labels), dtype=torch.float32)
        entropies = torch.empty_like(partitions)
        matrix = weight.to(dtype)
        for part in _parts(len(labels), len(weight)):
            logits = _logits(hidden[part], matrix)
            partitions[part] = logits.logsumexp(dim=1)
            entropies[part] = partitions[part] - logits.gather(1, labels[part, None])[:, 0]
        ctx.save_for_backward(hidden, weight, labels, partitions)
        ctx.dtype = dtype
        return entropies, partitions

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_entropies: Tensor, of_partitions: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, labels, partitions = ctx.saved_tensors
        matrix = weight.to(ctx.dtype)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Summed over the parts in float32.
        of_weight = (
            torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        for part in _parts(len(labels), len(weight)):
            # Of entropy the gradient is p - 1(label), of the partition's log it is p.
            slope = _logits(hidden[part], matrix).sub_(partitions[part, None]).exp_()
            slope.mul_((of_entropies[part] + of_partitions[part])[:, None])
            slope.scatter_add_(1, labels[part, None], -of_entropies[part, None])
            slope = slope.to(ctx.dtype)
            if of_hidden is not None:
                of_hidden[part] = (slope @ matrix).to(hidden.dtype)
            if of_weight is not None:
                of_weight += slope.T @ hidden[part].to(ctx.dtype)
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None, None


def _logits(hidden: Tensor, matrix: Tensor) -> Tensor:
    """[labels, ids] in float32, to be overwritten."""
    with torch.autocast(hidden.device.type, enabled=False):
        return (hidden.to(matrix.dtype) @ matrix.T).float()


def _parts(labels: int, ids: int) -> list[slice]:
    size = max(1, _AT_ONCE // ids)
    return [slice(at, min(at + size, labels)) for at in range(0, labels, size)]
