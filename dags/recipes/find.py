"""Finds a Dag by name: a recipe of ours, a YAML file, or `package.module:function`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.graph import Dag
from gristmill.dags.settings import nearest
from gristmill.errors import ConfigurationError

# Name on the command line -> module and function. A recipe takes the fields of its source.
RECIPES = {
    "image-text": ("gristmill.dags.recipes.image_text", "image_text"),
    "interleaved": ("gristmill.dags.recipes.interleaved", "interleaved"),
    "edit": ("gristmill.dags.recipes.edit", "edit"),
    "video-text": ("gristmill.dags.recipes.video_text", "video_text"),
}


def find_dag(name: str, source: dict[str, Any]) -> Dag:
    """The Dag that `name` stands for; `source` fields are set on its Read node if any are given."""
    if name.endswith((".yaml", ".yml")):
        if not os.path.exists(name):
            raise ConfigurationError(f"{name} does not exist; give a recipe's name or a YAML file")
        with open(name, encoding="utf-8") as file:
            dag = load_dag(file.read(), name)
        return with_source(dag, source)
    return recipe(name)(**source)


def recipe(name: str) -> Callable[..., Dag]:
    """The function of a recipe."""
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in RECIPES:
            raise ConfigurationError(
                f"no recipe {name!r}; {nearest(name, list(RECIPES))}, "
                "or give a .yaml file or package.module:function"
            )
        module, attribute = RECIPES[name]
    try:
        found: Callable[..., Dag] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"recipe {name!r} cannot be imported: {error}") from error
    return found


def with_source(dag: Dag, source: dict[str, Any]) -> Dag:
    """`dag` with fields of its Read node replaced."""
    import dataclasses

    if not source:
        return dag
    return dag.replace(dag.source, dataclasses.replace(dag.stage(dag.source), **source))
