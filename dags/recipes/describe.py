"""What a recipe is, for people: its nodes, and the columns that each of them writes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from gristmill.dags.graph import IMAGE, Dag
from gristmill.dags.recipes.find import RECIPES, find_dag, recipe
from gristmill.pipelines.describe import (
    ColumnDescription,
    StageDescription,
    describe_stage,
    summary_of,
)


@dataclass(frozen=True, kw_only=True)
class NodeDescription:
    """A node of a recipe: its stage as it is configured there."""

    name: str
    inputs: tuple[str, ...]
    # As it is set it has nothing to do, and a run leaves it out.
    disabled: bool
    stage: StageDescription


@dataclass(frozen=True, kw_only=True)
class RecipeDescription:
    """A recipe: its text, and its nodes in order."""

    name: str
    # First sentence of the docstring.
    summary: str
    # The docstring of the function, whole; of a YAML file, what it says of itself.
    doc: str
    nodes: tuple[NodeDescription, ...]

    def columns(self) -> list[tuple[NodeDescription, ColumnDescription]]:
        """What rules may name, each with the node that writes it, in the order of the nodes."""
        return [
            (node, column)
            for node in self.nodes
            if node.stage.shape not in ("Keep", "Write")
            for column in node.stage.columns
            if column.name != IMAGE
        ]


def describe_recipe(name: str) -> RecipeDescription:
    """A recipe by its name, a YAML file, or `package.module:function`."""
    dag = find_dag(name, {})
    is_file = name.endswith((".yaml", ".yml"))
    doc = dag.doc if is_file else inspect.cleandoc(recipe(name).__doc__ or "")
    return RecipeDescription(name=name, summary=summary_of(doc), doc=doc, nodes=describe_nodes(dag))


def describe_recipes() -> tuple[RecipeDescription, ...]:
    """All recipes of ours."""
    return tuple(describe_recipe(name) for name in RECIPES)


def describe_nodes(dag: Dag) -> tuple[NodeDescription, ...]:
    """The nodes of a Dag in order, those with nothing to do among them."""
    return tuple(
        NodeDescription(
            name=name,
            inputs=dag.nodes[name].inputs,
            disabled=dag.stage(name).is_disabled(),
            stage=describe_stage(dag.stage(name)),
        )
        for name in dag.order()
    )
