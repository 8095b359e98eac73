"""What parameters begin with: each from numbers of its own name, so that a rank needs to make no
more than one of them at a time, and all numbers of ranks begin alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gristmill.model.distributed.local_parts import local, local_slices
from gristmill.model.network.experts import ExpertLinear, ExpertNorm
from gristmill.model.network.flow_head import FlowHead
from gristmill.model.network.token_flow_head import TokenFlowHead

if TYPE_CHECKING:
    from gristmill.model.network.transformer import Transformer


@dataclass(frozen=True)
class Start:
    """Normal numbers of a deviation about a mean, which may be one of each place."""

    deviation: float = 0.0
    mean: float | Tensor = 0.0


CodeFeatures = Sequence[tuple[int, Float[Tensor, "codes features"]]]
"""First id of each codebook, and what its codes stand for."""


@torch.no_grad()
def fill(model: Transformer, seed: int, codes: CodeFeatures = ()) -> None:
    """Give all parameters their first values, or this rank's part of them. With `codes`, embeddings
    and output rows of codes begin with what the codes stand for, so that like codes are alike from
    the first step."""
    for name, start in starts(model).items():
        parameter = model.get_parameter(name)
        value = first_value(name, tuple(parameter.shape), start, seed)
        if name in ("embed.weight", "lm.weight"):
            for first, features in codes:
                _place_codes(value, first, features, _generator(seed, f"{name} {first}"))
        local(parameter).copy_(value[local_slices(parameter)])


@torch.no_grad()
def fill_tower(tower: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a vision tower its weights, or this rank's part of them."""
    for name, value in tower.state_dict().items():
        local(value).copy_(weights[name][local_slices(value)])


def first_value(name: str, shape: tuple[int, ...], start: Start, seed: int) -> Tensor:
    """All of a parameter, in float32 on the CPU."""
    if not start.deviation:
        return torch.zeros(shape) + start.mean
    value = torch.empty(shape, device="cpu")
    return value.normal_(std=start.deviation, generator=_generator(seed, name)) + start.mean


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def starts(model: Transformer) -> dict[str, Start]:
    """How each parameter begins: matrices with deviation 1/sqrt(fan in), those that end in the
    residual stream smaller by sqrt(2 * layers); biases and the flow output with zero."""
    config = model.config
    found: dict[str, Start] = {}
    for name, module in model.named_modules():
        if name.partition(".")[0] == "vision":
            # A tower has weights of its own, see `fill_tower`.
            continue
        for own, _ in module.named_parameters(recurse=False):
            path = f"{name}.{own}" if name else own
            found[path] = _start(module, name, own, config.layers)
    about = 0.02 if config.width > 512 else 0.1
    found["embed.weight"] = found["place_in.weight"] = Start(about)
    if not config.tied:
        found["lm.weight"] = Start(0.5 / math.sqrt(config.width))
    if config.flow_head == "linear":
        found["latent_out.weight"] = Start()
    elif config.flow_head == "query":
        found |= {f"flow_head.{name}": start for name, start in _head_starts(model.flow_head)}
    elif config.flow_head == "token":
        found |= {f"token_head.{name}": start for name, start in _head_starts(model.token_head)}
    return found


def _start(module: nn.Module, name: str, own: str, layers: int) -> Start:
    if own == "bias":
        return Start()
    if isinstance(module, nn.RMSNorm | ExpertNorm):
        return Start(mean=1.0)
    if isinstance(module, ExpertLinear | nn.Linear):
        deviation = 1 / math.sqrt(module.in_features)
        ends = isinstance(module, ExpertLinear) and name.endswith((".out", ".down"))
        return Start(deviation / math.sqrt(2 * layers) if ends else deviation)
    assert isinstance(module, nn.Embedding), f"{name}.{own}: nobody said how it begins"
    return Start(0.5)


def _head_starts(head: FlowHead | TokenFlowHead) -> list[tuple[str, Start]]:
    """What of a flow head begins at zero, so that it begins with no velocity."""
    found = [("latent_out.weight", Start())]
    for number, layer in enumerate(head.layers):
        modulate = layer.get_submodule("modulate")
        assert isinstance(modulate, nn.Linear)
        # Shifts, scales and gates, by threes, one triple or two. Gates start open: a shallow head
        # learns faster than from a plain identity.
        gates = torch.zeros(modulate.out_features // modulate.in_features, modulate.in_features)
        gates[2::3] = 1
        found += [
            (f"layers.{number}.modulate.weight", Start()),
            (f"layers.{number}.modulate.bias", Start(mean=gates.flatten())),
        ]
    return found


def _place_codes(weight: Tensor, first: int, features: Tensor, generator: torch.Generator) -> None:
    """Rows of ids from `first` on, [vocabulary, width]."""
    centred = features.double().cpu()
    centred = centred - centred.mean(dim=0)
    values, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    # Half whitened: strong directions lead, weak ones are not lost.
    scale = values.clamp_min(float(values[-1]) * 1e-4) ** -0.25
    mixed = (centred @ axes * scale).float()
    mixed = mixed / mixed.std()
    turn = torch.randn(mixed.shape[1], weight.shape[1], generator=generator)
    rows = mixed @ turn / math.sqrt(mixed.shape[1])
    old = weight[first : first + len(rows)]
    weight[first : first + len(rows)] = rows * old.std() + 0.2 * old
