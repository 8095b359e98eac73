"""Optimisers, learning rates over time, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.errors import ConfigurationError

SCHEDULES = ("cosine", "wsd", "constant")
OPTIMISERS = ("adamw", "muon")


def learning_rate(
    step: int, *, steps: int, peak: float, schedule: str, warmup: int, decay_share: float = 0.2
) -> float:
    """The rate of a step. "wsd" warms up, stays, and decays linearly over the last share of the
    steps (warmup-stable-decay, Hu et al. 2024); "cosine" falls to a fiftieth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    if schedule == "wsd":
        left = (steps - step) / max(1.0, decay_share * steps)
        return peak * min(1.0, max(left, 0.01))
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, share))) / 2)


def make_optimizer(
    model: nn.Module,
    *,
    name: str,
    rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    bf16: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over all, or Muon over the matrices of the blocks and AdamW over the rest. `bf16`: the
    precision that Muon orthogonalises in."""
    if name not in OPTIMISERS:
        raise ConfigurationError(f"optimiser {name!r}; choose one of {', '.join(OPTIMISERS)}")
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    for path, parameter in model.named_parameters():
        if path.startswith("blocks.") and path.endswith(_MATRICES):
            (matrices if name == "muon" else decayed).append(parameter)
        elif parameter.dim() >= 2 and "norm" not in path and "embed" not in path:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "muon": False},
        {"params": plain, "weight_decay": 0.0, "muon": False},
    ]
    if name == "muon":
        groups.append({"params": matrices, "weight_decay": weight_decay, "muon": True})
        return Muon([g for g in groups if g["params"]], rate=rate, betas=betas, bf16=bf16)
    for group in groups:
        del group["muon"]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, eps=1e-8)


_MATRICES = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised by Newton-Schulz steps (Jordan et al. 2024), with
    updates scaled to the size of AdamW's (Liu et al. 2025), so that one rate serves both.

    Groups with `muon` false are done by AdamW. Weights are [experts, out, in].
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        rate: float,
        betas: tuple[float, float],
        bf16: bool = False,
    ) -> None:
        self._precision = torch.bfloat16 if bf16 else torch.float32
        super().__init__(groups, {"lr": rate, "betas": betas, "momentum": 0.95, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._muon if group["muon"] else self._adam
                parameter.add_(update(parameter, group), alpha=-group["lr"])

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum, grad = state["momentum"], parameter.grad
        assert grad is not None
        momentum.lerp_(grad, 1 - group["momentum"])
        mixed = torch.lerp(grad, momentum, group["momentum"])
        rows, columns = parameter.shape[-2:]
        # Root mean square of an orthogonal update is 1 / sqrt(longer side); AdamW's is about 0.2.
        return orthogonalise(mixed, self._precision) * (0.2 * math.sqrt(max(rows, columns)))

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
        grad, (beta1, beta2) = parameter.grad, group["betas"]
        assert grad is not None
        state["step"] += 1
        count = float(state["step"])
        state["first"].lerp_(grad, 1 - beta1)
        state["second"].lerp_(grad.square(), 1 - beta2)
        first = state["first"] / (1 - beta1**count)
        second = state["second"] / (1 - beta2**count)
        update: Tensor = first / (second.sqrt() + group["eps"])
        return update


def orthogonalise(
    matrices: Tensor, precision: torch.dtype = torch.float32, steps: int = 5
) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: quintic Newton-Schulz; [..., m, n]."""
    # A sharded matrix is made whole first: orthogonality is of all its rows.
    full: Tensor = matrices.full_tensor() if hasattr(matrices, "full_tensor") else matrices
    x = full.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    whole: Tensor = (x.mT if tall else x).to(full.dtype)
    if full is matrices:
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = matrices.device_mesh, matrices.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole, mesh, placements)


class MovingAverage:
    """An exponential moving average of weights; what is evaluated and exported."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter.detach(), 1 - decay)
