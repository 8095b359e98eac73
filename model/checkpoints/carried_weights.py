"""A new model that begins with the weights of another: what both have is carried over, tensor by
tensor, and what is new begins so that the model first does what the other did."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.tensor_files import TensorSource
from gristmill.model.documents.vocabulary import SIDES, SPECIALS, Vocabulary
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.transformer import Transformer

_TABLES = ("embed.weight", "lm.weight")
_TOWER = "vision."
# Ends that speak in the stream of embeddings, and so begin as loud as these are.
_SPOKEN = ("semantic_proj.2.", "latent_in.", "time_in.2.")


@dataclass(frozen=True)
class Rows:
    """Ids of a new vocabulary from `new` on that were ids from `old` on."""

    new: int
    old: int
    count: int


def shared_rows(old: Vocabulary, new: Vocabulary, *, same_codes: bool) -> list[Rows]:
    """What two vocabularies of the same text have in common; codes, if their codec is the same.

    Raises `ConfigurationError` for vocabularies of different texts.
    """
    if (old.tokenizer_file, old.text_rows) != (new.tokenizer_file, new.text_rows):
        raise ConfigurationError("the two models have different tokenizers; keep the first one's")
    found = [
        Rows(0, 0, len(SPECIALS) + SIDES),
        Rows(new.query_start, old.query_start, min(new.queries, old.queries)),
        Rows(new.text_start, old.text_start, new.text_rows),
    ]
    if same_codes and old.codebooks == new.codebooks:
        starts = zip(new.code_starts, old.code_starts, new.codebooks, strict=True)
        found += [Rows(*one) for one in starts]
    return [rows for rows in found if rows.count]


class CarriedWeights:
    """The weights that a model begins with, one at a time, whole, on the CPU."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        rows: Sequence[Rows],
        text: tuple[int, int],
        tower: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`source`: the other model's weights, by our names; `rows`: what its table and the new
        one share; `text`: where the ids of real text begin and end in the old table; `tower`: the
        weights of the new model's vision tower, where the other has none.

        Raises `ConfigurationError` for a model that cannot begin with them.
        """
        self.config, self._source, self._rows, self._text = config, source, rows, text
        with torch.device("meta"):
            model = Transformer(config)
        self._shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self._tower = {f"{_TOWER}{name}": value for name, value in (tower or {}).items()}
        self._there = set(source.names())
        lost = [n for n in self._shapes if n.startswith("blocks.") and n not in self._there]
        if lost:
            raise ConfigurationError(
                f"a model of {config.experts} blocks cannot begin with these weights: {lost[0]} is "
                "not among them"
            )
        left = sorted(self._there - set(self._shapes))
        if any(name.startswith("blocks.") for name in left):
            raise ConfigurationError(f"the new model has no place for {left[0]}")
        table = source.read("embed.weight")
        self.dtype = table.dtype
        # How loud the model's own embeddings are.
        self._loudness = float(table[slice(*text)].float().std())
        self._fresh = _fresh(config)

    def names(self) -> list[str]:
        """All parameters of the new model, in its order."""
        return list(self._shapes)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What `read` gives."""
        return {name: (shape, self._dtype(name)) for name, shape in self._shapes.items()}

    def _dtype(self, name: str) -> torch.dtype:
        """Counts of a tower stay counts."""
        value = self._tower.get(name)
        return self.dtype if value is None or value.is_floating_point() else value.dtype

    def read(self, name: str) -> Tensor:
        """One of them."""
        shape = self._shapes[name]
        if name in self._tower:
            value = self._tower[name]
        elif name in _TABLES:
            value = self._table(name)
        elif name in self._there:
            value = self._fitted(name, self._source.read(name), shape)
        else:
            value = self._fresh[name]
            if name == "place_in.weight":
                value = torch.zeros_like(value)
            elif name.startswith(_SPOKEN):
                value = value * self._loudness
        return value.to(self._dtype(name))

    def all(self) -> Iterator[tuple[str, Tensor]]:
        """All, one after the other."""
        for name in self._shapes:
            yield name, self.read(name)

    def _table(self, name: str) -> Tensor:
        """Rows that were there, and for new ids the mean of the text's."""
        old = self._source.read(name)
        mean = old[slice(*self._text)].float().mean(dim=0).to(old.dtype)
        table = mean.repeat(self.config.vocabulary, 1)
        for rows in self._rows:
            table[rows.new : rows.new + rows.count] = old[rows.old : rows.old + rows.count]
        return table

    def _fitted(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(value.shape) == shape:
            return value
        of_one = value.dim() == len(shape) and value.shape[0] == 1
        if of_one and self.config.experts == "mot" and tuple(value.shape[1:]) == shape[1:]:
            # Both experts begin as the one that there was.
            return value.expand(shape)
        if not name.startswith("blocks.") and name in self._fresh:
            # Another codec or encoder: its end begins anew.
            return self._fresh[name]
        raise ConfigurationError(
            f"{name} is {tuple(value.shape)}, the new model wants {shape}: they are of different "
            "sizes"
        )


def _fresh(config: ModelConfig) -> dict[str, Tensor]:
    """All but blocks and tables, as in a model from zero."""
    small = dataclasses.replace(
        config, vision=None, vocabulary=1, layers=1, feed_forward=1, experts="dense", tied=True
    )  # fmt: skip
    model = Transformer(small)
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if not name.startswith("blocks.") and name not in _TABLES
    }
