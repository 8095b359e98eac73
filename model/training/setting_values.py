"""Values of settings as people write them, in YAML or behind `name=`, by the type of a setting."""

from __future__ import annotations

import re
from typing import Any

import yaml

from gristmill.errors import ConfigurationError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, with the floats of YAML 1.2: 1e-3 has no point and is one."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str) -> Any:
    """What a YAML text says. Raises `yaml.YAMLError`."""
    return yaml.load(text, _Loader)


def typed(value: object, kind: type, where: str) -> Any:
    """A value that was read from YAML as a bool, int, float or text; 1e3 is a whole number, too.

    Raises `ConfigurationError` for any other type of value.
    """
    if kind is str:
        if value is None or isinstance(value, str):
            return value or ""
        raise _wrong(value, kind, where)
    if isinstance(value, str):
        # A number in quotes is one.
        try:
            value = read_yaml(value)
        except yaml.YAMLError:
            raise _wrong(value, kind, where) from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if kind is bool and isinstance(value, bool):
            return value
        raise _wrong(value, kind, where)
    if kind is float:
        return float(value)
    if kind is int and float(value).is_integer():
        return int(value)
    raise _wrong(value, kind, where)


def _wrong(value: object, kind: type, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {value!r} is given, {_KINDS[kind]} is wanted")
