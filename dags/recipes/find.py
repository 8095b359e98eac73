"""Finds a Dag by name: a recipe of ours, a YAML file, or `package.module:function`."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError, nearest
from gristmill.pipelines import stage_name
from gristmill.pipelines.stage import Read
from gristmill.pipelines.user_code import import_named

# Name on the command line -> module and function. A recipe takes the fields of its source.
RECIPES = {
    "image-text": ("gristmill.dags.recipes.image_text", "image_text"),
    "interleaved": ("gristmill.dags.recipes.interleaved", "interleaved"),
    "conversations": ("gristmill.dags.recipes.conversations", "conversations"),
    "edit": ("gristmill.dags.recipes.edit", "edit"),
    "video-text": ("gristmill.dags.recipes.video_text", "video_text"),
}


def find_dag(name: str, source: Mapping[str, Any]) -> Dag:
    """The Dag that `name` stands for; `source` fields are set on its Read node if any are given."""
    if name.endswith((".yaml", ".yml")):
        if not os.path.exists(name):
            raise ConfigurationError(f"{name} does not exist; give a recipe's name or a YAML file")
        with open(name, encoding="utf-8") as file:
            dag = load_dag(file.read(), name)
        return with_source(dag, source)
    return build_dag(name, recipe(name), source)


def recipe(name: str) -> Callable[..., Dag]:
    """The function of a recipe; a Dag that lies in a module ready-made is its own function."""
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in RECIPES:
            raise ConfigurationError(
                f"no recipe {name!r}; {nearest(name, list(RECIPES))}, "
                "or give a .yaml file or package.module:function"
            )
        module, attribute = RECIPES[name]
    found = import_named(f"{module}:{attribute}")
    if isinstance(found, Dag):
        return partial(dataclasses.replace, found)
    if not callable(found):
        raise ConfigurationError(f"{name} is a {type(found).__name__}; name a function or a Dag")
    return found


def build_dag(name: str, function: Callable[..., Dag], source: Mapping[str, Any]) -> Dag:
    """Call a Dag's function with the fields of the source that it takes; the others are set on the
    Read node of what it returns."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if isinstance(function, partial):
        named, takes_all = [], False
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL,
        )  # fmt: skip
        if needed and (parameter.name not in source or parameter not in named):
            given = "--source gives 'path', --images 'images', --column 'columns'"
            raise ConfigurationError(
                f"{name} needs {parameter.name!r}, which nothing gives ({given}); "
                "give that parameter a default, or call it so"
            )
    taken = {p.name for p in named}
    mine = {key: value for key, value in source.items() if takes_all or key in taken}
    dag = function(**mine)
    if not isinstance(dag, Dag):
        raise ConfigurationError(f"{name} returns a {type(dag).__name__}; it must return a Dag")
    return with_source(dag, {key: value for key, value in source.items() if key not in mine})


def with_source(dag: Dag, source: Mapping[str, Any]) -> Dag:
    """`dag` with fields of its Read node replaced; `ConfigurationError` for one that it has not."""
    if not source or not any(isinstance(node.stage, Read) for node in dag.nodes.values()):
        # Without a Read node the Dag is refused when it is validated.
        return dag
    stage = dag.stage(dag.source)
    known = [field.name for field in dataclasses.fields(stage)]
    for key in source:
        if key not in known:
            raise ConfigurationError(
                f"{dag.name}: its source {dag.source!r} ({stage_name(type(stage))}) has no field "
                f"{key!r} to set; it has {', '.join(known) or 'none'}"
            )
    return dag.replace(dag.source, dataclasses.replace(stage, **source))
