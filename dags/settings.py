"""Stage fields from text: `--set node.field=value` and YAML, checked by type, nearest name
given."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError, nearest
from gristmill.pipelines import stage_name
from gristmill.pipelines.key_value import key_value
from gristmill.pipelines.stage import Stage


def build_stage(cls: type, values: Mapping[str, Any], where: str) -> Stage:
    """A stage from field values, each coerced to its field's type."""
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigurationError(f"{where}: {_no_field(cls, name, fields)}")
        known[name] = coerce(value, hints[name], f"{where}.{name}")
    stage = cls(**known)
    if not isinstance(stage, Stage):
        raise ConfigurationError(f"{where}: {stage_name(cls)} is not a stage")
    return stage


def _no_field(cls: type, name: str, fields: Iterable[str]) -> str:
    """What a field that there is none of is called now, or what is near it."""
    former: Mapping[str, str] = getattr(cls, "FORMER", {})
    hint = former.get(name) or nearest(name, sorted(fields))
    return f"{stage_name(cls)} has no field {name!r}; {hint}"


def apply_settings(dag: Dag, settings: Iterable[str]) -> Dag:
    """`dag` with each `node.field=value` (or `part_rows=n`) applied; values are read as YAML.

    A mapping field takes `node.field.key=value`, or a whole YAML mapping; an empty value removes
    a key. Stages that are left with nothing to do are taken out.
    """
    for setting in settings:
        target, text = key_value(setting, "--set", "node.field=value")
        dag = _apply(dag, target, text)
    return dag.without_idle()


def _apply(dag: Dag, target: str, text: str) -> Dag:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if target == "part_rows":
        return dataclasses.replace(dag, part_rows=coerce(value, int, target))
    node, dot, name = target.partition(".")
    if not dot:
        raise ConfigurationError(f"--set {target!r}: write node.field=value, or part_rows=n")
    stage = dag.stage(node)
    name, dot, key = name.partition(".")
    fields = {field.name for field in dataclasses.fields(stage)}
    if name not in fields:
        raise ConfigurationError(f"--set {target}: {_no_field(type(stage), name, fields)}")
    hint = typing.get_type_hints(type(stage))[name]
    # "1e5" and "007" are texts for a text field, whatever YAML makes of them.
    raw = text if hint is str else value
    if dot:
        mapping = dict(getattr(stage, name))
        if text.strip():
            mapping[key] = text
        elif key in mapping:
            del mapping[key]
        else:
            raise ConfigurationError(
                f"--set {target}: no {key!r} there; " + nearest(key, sorted(mapping))
            )
        raw = mapping
    return dag.replace(
        node, dataclasses.replace(stage, **{name: coerce(raw, hint, f"{node}.{name}")})
    )


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or `ConfigurationError` naming both."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise _wrong(value, f"one of {', '.join(map(repr, arguments))}", where)
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            value = [part.strip() for part in str(value).split(",")] if value is not None else []
        return tuple(coerce(item, arguments[0], where) for item in value)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping", where)
        return {str(key): coerce(item, arguments[1], where) for key, item in value.items()}
    return _coerce_plain(value, hint, where)


def _coerce_union(value: Any, arguments: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    for argument in arguments:
        if argument is not type(None):
            try:
                return coerce(value, argument, where)
            except ConfigurationError:
                continue
    raise _wrong(value, " or ".join(str(argument) for argument in arguments), where)


def _coerce_plain(value: Any, hint: Any, where: str) -> Any:
    if hint is str:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        raise _wrong(value, "text", where)
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(value, "true or false", where)
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        return _whole(value, where)
    if hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        try:
            return float(str(value)) if isinstance(value, str) else _fail(value, where)
        except ValueError:
            raise _wrong(value, "a number", where) from None
    if not isinstance(value, hint):
        raise _wrong(value, str(hint), where)
    return value


def _whole(value: Any, where: str) -> int:
    """A whole number that YAML takes for a text or a float: "1_000", 1e6."""
    if isinstance(value, str) and value.replace("_", "").lstrip("-").isdigit():
        return int(value)
    if isinstance(value, (str, float)):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number.is_integer():
            return int(number)
    raise _wrong(value, "a whole number", where)


def _fail(value: Any, where: str) -> float:
    raise _wrong(value, "a number", where)


def _wrong(value: Any, wanted: str, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is {value!r}; it must be {wanted}")
