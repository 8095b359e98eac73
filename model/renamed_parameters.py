"""Names that parameters once had: checkpoints keep them, the code does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

_NOW = {"und_proj": "semantic_proj", "lat_in": "latent_in", "lat_out": "latent_out"}
_ONCE = {now: once for once, now in _NOW.items()}

Nested = TypeVar("Nested")


def present_name(path: str) -> str:
    """The present name of a parameter, from a path as a checkpoint has it."""
    return _translate(path, _NOW)


def has_former_names(paths: Iterable[str]) -> bool:
    """Whether a checkpoint of these paths was written before parameters were renamed."""
    return any(present_name(path) != path for path in paths)


def with_former_names(state: Nested) -> Nested:
    """A nested state whose keys, and lists of names, are those of a former checkpoint. Tensors are
    the same objects."""
    return _renamed(state, _ONCE)


def with_present_names(state: Nested) -> Nested:
    """The inverse of `with_former_names`."""
    return _renamed(state, _NOW)


def _translate(path: str, names: dict[str, str]) -> str:
    return ".".join(names.get(part, part) for part in path.split("."))


def _renamed(value: Nested, names: dict[str, str]) -> Nested:
    renamed: object = value
    if isinstance(value, dict):
        renamed = {
            _translate(key, names) if isinstance(key, str) else key: _renamed(held, names)
            for key, held in value.items()
        }
    elif isinstance(value, list):
        renamed = [
            _translate(held, names) if isinstance(held, str) else _renamed(held, names)
            for held in value
        ]
    return renamed  # type: ignore[return-value]
