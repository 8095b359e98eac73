"""Parts of a model, by how the names of their parameters begin: what is frozen, and what learns at
a rate of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from gristmill.errors import ConfigurationError, nearest


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Have no parameter of these parts learn: no gradient, no decay, no moving average.

    Raises `ConfigurationError` for a part that the model lacks, or if nothing is left to learn.
    """
    require_parts(model, prefixes, "freeze")
    for name, parameter in model.named_parameters():
        if any(belongs(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError(f"freeze={list(prefixes)} leaves nothing to learn; freeze less")


def require_parts(model: nn.Module, prefixes: Iterable[str], setting: str) -> None:
    """Raise `ConfigurationError` for a part that the model lacks."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(belongs(name, prefix) for name in names):
            parts = dict.fromkeys(
                ".".join(name.split(".")[:length]) for name in names for length in (1, 2, 3)
            )
            shown = dict.fromkeys(part.split(".")[0] for part in parts)
            raise ConfigurationError(
                f"{setting}: the model has no part {prefix!r}; {nearest(prefix, parts)} "
                f"Its parts are {', '.join(shown)}"
            )


def belongs(name: str, prefix: str) -> bool:
    """Whether a parameter is of a part: `blocks.1` has `blocks.1.attention...`, not
    `blocks.10...`."""
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def rate_factor(name: str, rates: Mapping[str, float]) -> float:
    """What the rate of a parameter is multiplied by: that of the longest part that it is of."""
    fitting = [prefix for prefix in rates if belongs(name, prefix)]
    return rates[max(fitting, key=len)] if fitting else 1.0
