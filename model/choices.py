"""Names that a person types, checked before any work, with what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gristmill.errors import ConfigurationError


def require_known(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise `ConfigurationError` unless `name` is one of `choices`; `what` says what it names."""
    known = list(choices)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"{what} {name!r}: {hint}choose one of {', '.join(known)}")
