"""What a person typed as `name=value`, taken apart in one way everywhere."""

from __future__ import annotations

from gristmill.errors import ConfigurationError


def key_value(text: str, option: str, form: str) -> tuple[str, str]:
    """Name and value of `text` at its first equals sign, the name without spaces around it.

    Raises `ConfigurationError`, naming the `option` and the `form` that was wanted, if there is no
    sign, or nothing before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigurationError(f"{option} {text!r}: write {form}")
    return name.strip(), value
