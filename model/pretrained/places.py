"""Where a pretrained model lies: a folder, a GGUF file, or the hub."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Any

from gristmill.errors import ConfigurationError, MissingWeightsError

# What is read of a repository; weights in pickles are not.
_WANTED = ("*.json", "*.jinja", "*.safetensors")


def find_model(where: str) -> str:
    """The folder with its config.json, or its GGUF file, fetched from the hub if it is not here.

    Raises `ConfigurationError` for what is no model, `MissingWeightsError` for one that cannot be
    had.
    """
    if os.path.isfile(where):
        if where.endswith(".gguf"):
            return where
        raise ConfigurationError(f"{where} is not a GGUF file; give the folder with config.json")
    if os.path.isdir(where):
        return _of_folder(where)
    if where.startswith(("/", ".")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", where):
        raise ConfigurationError(
            f"there is no {where}; give a folder with config.json, a .gguf file, or OWNER/NAME of "
            "the hub"
        )
    from huggingface_hub import snapshot_download

    try:
        return _of_folder(snapshot_download(where, allow_patterns=list(_WANTED)))
    except OSError as error:
        raise MissingWeightsError(
            f"{where} is no folder here and cannot be had from the hub: {error}"
        ) from error


def _of_folder(folder: str) -> str:
    if os.path.exists(os.path.join(folder, "config.json")):
        return folder
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "*.gguf")))
    if len(files) == 1:
        return files[0]
    raise ConfigurationError(
        f"{folder} has no config.json"
        + (f" and {len(files)} GGUF files; name one of them" if files else " and no GGUF file")
    )


def read_config(folder: str) -> dict[str, Any]:
    """Its config.json."""
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is broken: {error}") from error
    return values
