"""Safetensors files written tensor by tensor: nobody holds a whole model to write it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gristmill.model.distributed.local_parts import whole
from gristmill.model.distributed.ranks import first_rank_does, rank
from gristmill.model.documents.batch import Array

_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def write_weights(path: str, values: Mapping[str, Tensor]) -> None:
    """Write tensors, sharded or not, into one file, which appears when it is whole. All ranks call,
    and gather one tensor at a time. Raises `TrainingError` on all ranks if it cannot be written.
    """
    partial = path + ".partial"
    failure: list[OSError] = []

    def write(data: bytes | Array, mode: str = "ab") -> None:
        if rank() != 0 or failure:
            return
        try:
            with open(partial, mode) as file:
                file.write(data)
        except OSError as error:
            # The others wait to gather the next; all are told at the end.
            failure.append(error)

    def finish() -> None:
        if failure:
            raise failure[0]
        os.replace(partial, path)

    write(header({name: (value.shape, value.dtype) for name, value in values.items()}), "wb")
    for value in values.values():
        tensor = whole(value.detach())
        if rank() == 0:
            write(numbers(tensor))
    first_rank_does(finish)


def numbers(tensor: Tensor) -> Array:
    """The bytes of a tensor."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def header(values: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> bytes:
    """The length of a JSON and the JSON, which says where each tensor of a shape and type lies."""
    facts: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in values.items():
        end = at + math.prod(shape) * dtype.itemsize
        facts[name] = {
            "dtype": _KINDS[dtype],
            "shape": list(shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(facts).encode()
    # Tensors begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
