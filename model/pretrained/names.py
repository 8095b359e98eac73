"""Where each parameter of ours lies among the tensors of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.tensor_files import TensorSource


@dataclass(frozen=True)
class Parts:
    """The tensors that make one of ours: `names[expert][part]`, parts one above the other."""

    names: tuple[tuple[str, ...], ...]
    # Rows of each part, for the way back; none: one part has them all.
    rows: tuple[int, ...] = ()
    # Whether ours has a dimension of experts before those of the tensors.
    has_experts: bool = True
    # A tensor that has all experts and parts together, where it is stored so.
    stacked: str = ""

    def all_names(self) -> Iterator[str]:
        """Each tensor once."""
        for expert in self.names:
            yield from expert


def of_one(*names: str, rows: tuple[int, ...] = ()) -> Parts:
    """A weight of one expert, from one tensor or several."""
    return Parts((names,), rows)


def bare(name: str) -> Parts:
    """A tensor as it is."""
    return Parts(((name,),), has_experts=False)


class Assembled:
    """A pretrained model's tensors under the names of our parameters."""

    def __init__(self, source: TensorSource, table: Mapping[str, Parts]) -> None:
        """Raises `ConfigurationError` naming tensors that are missing."""
        self._source, self._table = source, table
        there = set(source.names())
        lost = [
            name
            for parts in table.values()
            if parts.stacked not in there
            for name in parts.all_names()
            if name not in there
        ]
        if lost:
            raise ConfigurationError(
                f"{len(lost)} tensors of the model are not in its files: {', '.join(lost[:3])}"
                f"{' ...' if len(lost) > 3 else ''}"
            )
        self._there = there

    def unused(self) -> list[str]:
        """Tensors that are no parameter of ours."""
        used = {name for parts in self._table.values() for name in parts.all_names()}
        used |= {parts.stacked for parts in self._table.values()}
        return sorted(self._there - used)

    def names(self) -> list[str]:
        """Our parameters."""
        return list(self._table)

    def read(self, name: str) -> Tensor:
        """One of our parameters."""
        parts = self._table[name]
        if parts.stacked in self._there:
            return self._source.read(parts.stacked)
        experts = [
            torch.cat([self._source.read(part) for part in expert]) for expert in parts.names
        ]
        return torch.stack(experts) if parts.has_experts else experts[0]


def taken_apart(parts: Parts, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that make one of ours, with their names: the inverse of `Assembled.read`."""
    experts = value.unbind(0) if parts.has_experts else (value,)
    for names, expert in zip(parts.names, experts, strict=True):
        pieces = expert.split(list(parts.rows)) if parts.rows else (expert,)
        yield from zip(names, pieces, strict=True)
