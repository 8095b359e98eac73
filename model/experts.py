"""Linear maps with one weight per expert, over tokens sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Sorting:
    """Tokens sorted by expert, once for a batch."""

    order: Tensor  # [N] int64: sorted position -> token
    inverse: Tensor  # [N] int64: token -> sorted position
    expert: Tensor  # [N] int64: sorted position -> expert
    counts: Tensor  # [E] int64
    sizes: list[int]  # the same on the host; empty on CUDA, where nobody needs them

    @classmethod
    def of(cls, expert: Tensor, experts: int) -> Sorting:
        """`expert`: [N], the expert of each token."""
        order = torch.argsort(expert, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        # As bincount, whose length a compiler could not know.
        counts = torch.zeros(experts, dtype=torch.int64, device=expert.device)
        counts = counts.scatter_add(0, expert, torch.ones_like(expert))
        sizes = counts.tolist() if not _can_group(counts) else []
        return cls(order, inverse, expert[order], counts, sizes)


def _can_group(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda" and hasattr(F, "grouped_mm")


class ExpertLinear(nn.Module):
    """[N, in] sorted by expert -> [N, out]; with one expert an ordinary linear map."""

    def __init__(
        self, experts: int, in_features: int, out_features: int, bias: bool = False
    ) -> None:
        super().__init__()
        self.experts, self.in_features, self.out_features = experts, in_features, out_features
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(experts, out_features)) if bias else None

    def forward(self, x: Tensor, sorting: Sorting | None) -> Tensor:
        """`sorting` is None for one expert."""
        if sorting is None:
            return F.linear(x, self.weight[0], None if self.bias is None else self.bias[0])
        if not sorting.sizes:
            ends = sorting.counts.cumsum(0).to(torch.int32)
            weight = self.weight.to(torch.bfloat16).transpose(1, 2)
            mapped = F.grouped_mm(x.to(torch.bfloat16), weight, offs=ends)
        else:
            parts = x.split(sorting.sizes)
            mapped = torch.cat([F.linear(part, self.weight[i]) for i, part in enumerate(parts)])
        return mapped if self.bias is None else mapped + self.bias[sorting.expert].to(mapped.dtype)


class ExpertNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019) with a gain per expert."""

    def __init__(self, experts: int, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps, self.width = eps, width
        self.weight = nn.Parameter(torch.ones(experts, width))

    def forward(self, x: Tensor, expert: Tensor | None) -> Tensor:
        """x: [N, ..., width]; `expert`: [N], or None for one expert."""
        if expert is None:
            return F.rms_norm(x, (self.width,), self.weight[0].to(x.dtype), self.eps)
        gain = self.weight[expert]
        while gain.dim() < x.dim():
            gain = gain.unsqueeze(1)
        return F.rms_norm(x, (self.width,), None, self.eps) * gain.to(x.dtype)
