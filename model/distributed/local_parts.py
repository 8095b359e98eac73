"""The part of a sharded tensor that this rank has; of one that is not sharded, all."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part, to be written into."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_slices(tensor: Tensor) -> tuple[slice, ...]:
    """Where this rank's part lies in the whole."""
    if not isinstance(tensor, DTensor):
        return tuple(slice(0, size) for size in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, starts = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(slice(at, at + size) for at, size in zip(starts, sizes, strict=True))


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank; all ranks call. For one tensor at a time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
