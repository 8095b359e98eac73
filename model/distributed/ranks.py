"""The processes that train together: joining them, who one is among them, and waiting for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor

from gristmill.errors import GristmillError, TrainingError

# One rank may make a codec of thousands of pictures while the others wait.
_PATIENCE = timedelta(minutes=30)


def join() -> torch.device:
    """This rank's device, in the process group that torchrun's environment asks for; joined once,
    however often it is called."""
    cuda = torch.cuda.is_available()
    if cuda and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    asked = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if asked and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def rank() -> int:
    """This process among those that train together."""
    dist = torch.distributed
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many train together."""
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all of them."""
    if world_size() > 1:
        torch.distributed.barrier()


def leave() -> None:
    """Leave the process group together, when the work is done: a rank that goes while another still
    speaks to it was now and then aborted as it exited, its training done."""
    if world_size() > 1:
        barrier()
        torch.distributed.destroy_process_group()


def all_ranks(value: Tensor) -> Tensor:
    """The sum over all ranks, of a value without a gradient."""
    if world_size() == 1 or not value.numel():
        return value
    # A view would be summed as the memory that it lies in.
    total = value.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total


def first_rank_does(work: Callable[[], None]) -> None:
    """One rank does what is done once, such as writing a file, while the others wait; what stops
    it is raised by all."""
    failure: list[GristmillError | None] = [None]
    if rank() == 0:
        try:
            work()
        except GristmillError as error:
            failure[0] = error
        except OSError as error:
            failure[0] = TrainingError(f"{type(error).__name__}: {error}")
    if world_size() > 1:
        torch.distributed.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]
