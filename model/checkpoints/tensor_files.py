"""Weights in safetensors files, one or several with an index: read and written tensor by tensor."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gristmill.errors import TrainingError
from gristmill.model.distributed.local_parts import whole
from gristmill.model.distributed.ranks import first_rank_does, rank

SHARD_BYTES = 5 * 10**9
"""What a file holds at most, unless one tensor is larger."""
_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


class TensorSource(Protocol):
    """Tensors by name, read when they are asked for."""

    def names(self) -> list[str]:
        """All that there are."""
        ...

    def read(self, name: str) -> Tensor:
        """One of them, on the CPU."""
        ...


class SafetensorsFiles:
    """The tensors of one file, or of the files that an index names. A context, which closes them.

    Raises `TrainingError` for files that are missing or broken.
    """

    def __init__(self, paths: Mapping[str, str], stack: contextlib.ExitStack) -> None:
        self._paths, self._stack = paths, stack
        self._open: dict[str, Any] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str, stem: str = "model") -> Iterator[SafetensorsFiles]:
        """`folder/stem.safetensors`, or what `folder/stem.safetensors.index.json` names."""
        with contextlib.ExitStack() as stack:
            yield cls(_file_of_each(folder, stem, stack), stack)

    def names(self) -> list[str]:
        """All that there are."""
        return list(self._paths)

    def read(self, name: str) -> Tensor:
        """One of them, on the CPU."""
        path = self._paths[name]
        if path not in self._open:
            self._open[path] = _open_file(path, self._stack)
        try:
            tensor: Tensor = self._open[path].get_tensor(name)
        except Exception as error:
            raise TrainingError(f"{path} cannot be read: {name}: {error}") from error
        return tensor


def _file_of_each(folder: str, stem: str, stack: contextlib.ExitStack) -> dict[str, str]:
    index = os.path.join(folder, f"{stem}.safetensors.index.json")
    if not os.path.exists(index):
        path = os.path.join(folder, f"{stem}.safetensors")
        return dict.fromkeys(_open_file(path, stack).keys(), path)
    try:
        with open(index, encoding="utf-8") as file:
            files: dict[str, str] = json.load(file)["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{index} cannot be read: {error}") from error
    missing = sorted({name for name in files.values() if not _is_beside(folder, name)})
    if missing:
        raise TrainingError(f"{index} names {missing[0]}, which is not there")
    return {name: os.path.join(folder, file) for name, file in files.items()}


def _is_beside(folder: str, name: str) -> bool:
    return os.path.basename(name) == name and os.path.exists(os.path.join(folder, name))


def _open_file(path: str, stack: contextlib.ExitStack) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error


def write_tensors(
    folder: str,
    shapes: Mapping[str, tuple[Sequence[int], torch.dtype]],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    stem: str = "model",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors that come one after the other, in the order of `shapes`, parted over ranks or
    not: into one file, or into several and an index that comes last. What is written appears when
    all is. All ranks call, and hold no more than one whole tensor at a time.

    Raises `TrainingError` on all ranks if it cannot be written.
    """
    parts = _shards(shapes, shard_bytes)
    files = [_name(stem, number, len(parts)) for number in range(len(parts))]
    out = _FirstRankFiles(folder)
    arriving = iter(tensors)
    for part, file in zip(parts, files, strict=True):
        out.begin(file, _header({name: shapes[name] for name in part}))
        for name in part:
            found, tensor = next(arriving)
            shape, dtype = shapes[name]
            tensor = whole(tensor.detach())
            assert (found, list(tensor.shape), tensor.dtype) == (name, list(shape), dtype), found
            out.write(tensor)
    if len(parts) > 1:
        total = sum(_bytes(*shape) for shape in shapes.values())
        weights = {name: file for part, file in zip(parts, files, strict=True) for name in part}
        index = {"metadata": {"total_size": total}, "weight_map": weights}
        out.begin(f"{stem}.safetensors.index.json", json.dumps(index, indent=1).encode())
    first_rank_does(lambda: out.finish(stem))


class _FirstRankFiles:
    """Files that rank 0 writes while the others hand it their parts; what stops it is told at the
    end, as the others wait to gather the next tensor."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: list[str] = []
        self._failure: OSError | None = None

    def begin(self, name: str, data: bytes) -> None:
        """The next file, which begins with these bytes."""
        self._names.append(name)
        self._write(data, "wb")

    def write(self, tensor: Tensor) -> None:
        """The numbers of the next tensor of the file."""
        if rank() == 0 and self._failure is None:
            self._write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, "ab")

    def _write(self, data: bytes | memoryview, mode: str) -> None:
        if rank() != 0 or self._failure is not None:
            return
        try:
            with open(os.path.join(self._folder, self._names[-1] + ".partial"), mode) as file:
                file.write(data)
        except OSError as error:
            self._failure = error

    def finish(self, stem: str) -> None:
        """Give the files their names; those of an earlier model of other files go."""
        if self._failure is not None:
            raise self._failure
        for name in self._names:
            path = os.path.join(self._folder, name)
            os.replace(path + ".partial", path)
        _remove_others(self._folder, stem, self._names)


def _header(values: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> bytes:
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


def _shards(
    shapes: Mapping[str, tuple[Sequence[int], torch.dtype]], shard_bytes: int
) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        more = _bytes(*shape)
        if parts[-1] and size + more > shard_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += more
    return parts


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _name(stem: str, number: int, count: int) -> str:
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"


def _remove_others(folder: str, stem: str, files: list[str]) -> None:
    """Files of an earlier model of another number of files: two would be there at once."""
    for name in os.listdir(folder):
        ours = name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json") or (
            name.startswith(f"{stem}-") and name.endswith(".safetensors") and "-of-" in name
        )
        if ours and name not in files:
            os.remove(os.path.join(folder, name))
