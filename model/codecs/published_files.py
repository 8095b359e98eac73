"""The files of one part of a published model: in a folder, on the hub, or a single file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError


def read_config(source: str) -> dict[str, Any]:
    """config.json of a folder, or of a name on the hub; of a single file there is none."""
    if os.path.isfile(source):
        return {}
    path = _fetched(source, "config.json")
    if path is None:
        raise ConfigurationError(f"{source} has no config.json; give a folder of a model")
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def read_part(source: str, mark: str) -> dict[str, Tensor]:
    """Tensors of the part that has a tensor whose name ends with `mark`, float32, without what
    stands before their names. Only files that hold some of them are read, or fetched.

    `source`: a folder, a name on the hub, or a file of safetensors or of torch. Raises
    `ConfigurationError` naming what is missing.
    """
    if os.path.isfile(source):
        return _part(_read_file(source), mark, source)
    index = _fetched(source, "model.safetensors.index.json")
    if index is None:
        path = _fetched(source, "model.safetensors")
        if path is None:
            raise ConfigurationError(f"{source} has no model.safetensors, nor an index of several")
        return _part(_read_file(path), mark, source)
    with open(index, encoding="utf-8") as file:
        files: dict[str, str] = json.load(file)["weight_map"]
    start = _start(files, mark, source)
    tensors: dict[str, Tensor] = {}
    for name in sorted({name for key, name in files.items() if key.startswith(start)}):
        path = _fetched(source, name)
        if path is None:
            raise ConfigurationError(f"{source} has no {name}, which its index names")
        tensors |= _read_file(path)
    return _part(tensors, mark, source)


def _fetched(source: str, name: str) -> str | None:
    """Where a file lies on this machine; None if there is none."""
    if os.path.isdir(source):
        path = os.path.join(source, name)
        return path if os.path.exists(path) else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return hf_hub_download(source, name)
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise ConfigurationError(
            f"{source} is no folder here, and the hub does not give it: {error}"
        ) from error


def _read_file(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except Exception as error:
        # Pickles of more than tensors are not unpacked: they may run anything.
        raise ConfigurationError(
            f"{path} holds more than tensors; write its state_dict as safetensors: {error}"
        ) from error
    for name in ("state_dict", "ema", "model"):
        if isinstance(found.get(name), dict):
            found = found[name]
            break
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _start(names: Mapping[str, object], mark: str, source: str) -> str:
    start = next((name.removesuffix(mark) for name in names if name.endswith(mark)), None)
    if start is None:
        raise ConfigurationError(f"{source} has no tensor named ...{mark}")
    return start


def _part(tensors: Mapping[str, Tensor], mark: str, source: str) -> dict[str, Tensor]:
    start = _start(tensors, mark, source)
    return {
        name.removeprefix(start): value.float()
        for name, value in tensors.items()
        if name.startswith(start)
    }
