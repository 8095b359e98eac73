"""How the weights of a model lie on many ranks: fully sharded data parallel (FSDP2), evenly, within
groups of ranks that each hold one whole copy (HSDP)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from gristmill.errors import ConfigurationError
from gristmill.model.distributed.ranks import world_size
from gristmill.model.network.transformer import Transformer

# What the rank with most may hold, against an equal share.
_EVEN = 1.1
# Rows are gathered without a copy, so a hair of unevenness is better than another dim.
_ALMOST = 1.02


def shard(model: Transformer, device: torch.device, *, replicate: int, bf16: bool) -> None:
    """Shard each block, each layer of a vision tower, and what is around them, over world /
    `replicate` ranks. With `bf16` weights are gathered in bfloat16 and gradients summed in float32.

    Raises `ConfigurationError` if the weights cannot be shared out evenly among so many.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    ranks = check_replicas(replicate, world_size())
    _require_even([tuple(p.shape) for p in model.parameters()], ranks, replicate)
    mesh = init_device_mesh(device.type, (replicate, ranks), mesh_dim_names=("replicate", "shard"))
    # The stream between blocks stays in float32, as it is on one device.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    # A tower that is seen whole has statistics in float32, and computes in it.
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    groups: list[tuple[nn.Module, MixedPrecisionPolicy]] = [(one, policy) for one in model.blocks]
    if model.config.vision is not None:
        groups += [(layer, policy) for layer in getattr(model.vision, "layers", ())]
        groups.append((model.vision, exact if model.config.vision.whole else policy))
    for module, how in (*groups, (model, policy)):
        fully_shard(
            module,
            mesh=mesh if replicate > 1 else mesh["shard"],
            shard_placement_fn=lambda parameter: Shard(shard_dim(tuple(parameter.shape), ranks)),
            mp_policy=how,
        )


def check_replicas(replicate: int, world: int) -> int:
    """Ranks that share one copy of the weights; raises `ConfigurationError` for copies that so many
    ranks cannot be divided into."""
    if replicate < 1 or world % replicate:
        raise ConfigurationError(
            f"--replicate {replicate}: {world} ranks cannot hold so many whole copies; give a "
            f"divisor of {world}, or start another number of ranks"
        )
    return world // replicate


def shard_dim(shape: tuple[int, ...], ranks: int) -> int:
    """The dim along which a parameter is cut, so that each rank has about as much: rows, of
    [experts, out, in] not the experts. Others than the first must divide evenly (FSDP2)."""
    rows = 1 if len(shape) == 3 else 0
    if rows == 0 and _largest(shape, 0, ranks) * ranks <= _ALMOST * math.prod(shape):
        return 0
    dims = [rows, *(dim for dim in range(len(shape)) if dim != rows)]
    return min(
        (dim for dim in dims if dim == 0 or shape[dim] % ranks == 0),
        key=lambda dim: _largest(shape, dim, ranks),
    )


def _largest(shape: tuple[int, ...], dim: int, ranks: int) -> int:
    """Numbers on the rank that has most."""
    return math.ceil(shape[dim] / ranks) * (math.prod(shape) // max(1, shape[dim]))


def unevenness(shapes: Iterable[tuple[int, ...]], ranks: int) -> float:
    """What the rank with most holds of parameters of these shapes, against an equal share."""
    held = total = 0
    for shape in shapes:
        held += _largest(shape, shard_dim(shape, ranks), ranks)
        total += math.prod(shape)
    return held * ranks / total


def _require_even(shapes: Sequence[tuple[int, ...]], ranks: int, replicate: int) -> None:
    found = unevenness(shapes, ranks)
    if found <= _EVEN:
        return
    world = ranks * replicate
    copies = next(
        n
        for n in range(replicate, world + 1)
        if world % n == 0 and unevenness(shapes, world // n) <= _EVEN
    )
    raise ConfigurationError(
        f"{ranks} ranks cannot share these weights evenly: one of them would hold {found:.2f} "
        f"times its part; give --replicate {copies} ({copies} whole copies, each on "
        f"{world // copies} ranks), or start another number of ranks"
    )


def materialise(model: nn.Module, device: torch.device) -> None:
    """Give a model that was made on the meta device, and perhaps sharded, memory for this rank's
    part. Parameters hold anything, and so do buffers of a vision tower; other buffers what they
    held, which must not have been meta."""
    buffers = dict(model.named_buffers())
    model.to_empty(device=device)
    for name, value in buffers.items():
        if value.is_meta and name.partition(".")[0] == "vision":
            continue
        assert not value.is_meta, f"{name} must be made with device='cpu'"
        model.get_buffer(name).copy_(value)
