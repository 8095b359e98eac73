"""Optimisers, learning rates over time, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from gristmill.errors import require_known
from gristmill.model.distributed.local_parts import local, local_slices, whole
from gristmill.model.training.model_parts import rate_factor

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
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW over all that is not frozen, or Muon over the matrices of the blocks and AdamW over the
    rest. `bf16`: the precision that Muon orthogonalises in. `rates`: beginnings of names to factors
    of the rate."""
    require_known("optimiser", name, OPTIMISERS)
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if path.startswith("blocks.") and path.endswith(_MATRICES):
            kind = "muon" if name == "muon" else "decayed"
        elif parameter.dim() >= 2 and not any(word in path for word in ("norm", "embed", "bias")):
            kind = "decayed"
        else:
            kind = "plain"
        groups.setdefault((kind, rate_factor(path, rates or {})), []).append(parameter)
    made: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": 0.0 if kind == "plain" else weight_decay,
            "factor": factor,
            "lr": rate * factor,
        }
        | ({"muon": kind == "muon"} if name == "muon" else {})
        for (kind, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if name == "muon":
        return Muon(made, rate=rate, betas=betas, bf16=bf16)
    # One kernel for all parameters, where there is one that is quicker.
    fused = all(p.device.type == "cuda" for group in made for p in group["params"])
    return torch.optim.AdamW(made, lr=rate, betas=betas, eps=1e-8, fused=fused or None)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step; parts have theirs by their factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


_MATRICES = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")
# Numbers in matrices that are orthogonalised together.
_TOGETHER = 2**26


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
            with_grad = [p for p in group["params"] if p.grad is not None]
            if not group["muon"]:
                self._adam(with_grad, group)
                continue
            # Matrices of one shape are orthogonalised together, as many as memory is no matter for.
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in with_grad:
                alike.setdefault(parameter.shape, []).append(parameter)
            for matrices in alike.values():
                several = max(1, _TOGETHER // matrices[0].numel())
                for start in range(0, len(matrices), several):
                    self._muon(matrices[start : start + several], group)

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        mixed = []
        for parameter in parameters:
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            # A sharded matrix is made whole: orthogonality is of all its rows.
            mixed.append(whole(torch.lerp(grad, state["momentum"], group["momentum"])))
        updates = orthogonalise(torch.cat(mixed), self._precision).split([len(m) for m in mixed])
        # Root mean square of an orthogonal update is 1 / sqrt(longer side); AdamW's is about 0.2.
        scale = 0.2 * math.sqrt(max(parameters[0].shape[-2:]))
        for parameter, update in zip(parameters, updates, strict=True):
            mine = local(parameter)
            mine.mul_(1 - group["lr"] * group["weight_decay"])
            mine.add_(update[local_slices(parameter)], alpha=-group["lr"] * scale)

    def _adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["first"] = torch.zeros_like(parameter)
                state["second"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        adamw(
            list[Tensor](parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["first"] for state in states],
            [state["second"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalise(
    matrices: Tensor, precision: torch.dtype = torch.float32, steps: int = 5
) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: quintic Newton-Schulz; [k, m, n]."""
    x = matrices.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return (x.mT if tall else x).to(matrices.dtype)


class MovingAverage:
    """An exponential moving average of weights; what is evaluated and exported."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """All that a model is: the averages, and what is not learnt as it is."""
        return {name: self.values.get(name, value) for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), 1 - decay)
