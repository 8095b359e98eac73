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
    ends: Tensor  # [E] int32: where the tokens of each expert end
    sizes: list[int]  # how many they are, on the host; empty where experts are done together

    @classmethod
    def of(cls, expert: Tensor, experts: int) -> Sorting:
        """`expert`: [N], the expert of each token."""
        order = torch.argsort(expert, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        sorted_expert = expert[order]
        # Not by counting: that would wait for the device, and break a graph.
        ends = torch.searchsorted(
            sorted_expert, torch.arange(experts, device=order.device), right=True, out_int32=True
        )
        sizes = [] if _together(order.device) else ends.diff(prepend=ends.new_zeros(1)).tolist()
        return cls(order, inverse, sorted_expert, ends, sizes)


def _together(device: torch.device) -> bool:
    """Whether one kernel does all experts: of CUDA, for bfloat16."""
    return (
        device.type == "cuda"
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
        and hasattr(F, "grouped_mm")
    )


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
            weight = self.weight.to(torch.bfloat16).transpose(1, 2)
            mapped = F.grouped_mm(x.to(torch.bfloat16), weight, offs=sorting.ends)
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
