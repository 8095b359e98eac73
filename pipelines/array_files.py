"""Arrays in one file, as safetensors lays them out, and as views of the bytes when they are read.

Several arrays of one task travel to a store as one file. The library of that name writes them; it
copies what it reads, so the header, a line of JSON, is read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

_KINDS: dict[str, type[np.generic]] = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16,
    "F32": np.float32, "F64": np.float64,
}  # fmt: skip
_LENGTH = 8


def pack_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Arrays of any shape by name; booleans, whole and real numbers."""
    return safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()})


def unpack_arrays(packed: bytes | memoryview) -> dict[str, NDArray[np.generic]]:
    """What `pack_arrays` put together, as views of it. Raises ValueError for other bytes."""
    view = memoryview(packed)
    begin = _LENGTH + int.from_bytes(view[:_LENGTH], "little")
    if len(view) < begin:
        raise ValueError("it ends within its header")
    found: dict[str, NDArray[np.generic]] = {}
    for name, facts in json.loads(bytes(view[_LENGTH:begin])).items():
        if name == "__metadata__":
            continue
        low, high = facts["data_offsets"]
        kind, shape = _KINDS[facts["dtype"]], facts["shape"]
        data = view[begin + low : begin + high]
        values = np.frombuffer(data, kind) if len(data) else np.zeros(0, kind)
        found[name] = values.reshape(shape)
    return found
