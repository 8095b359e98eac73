"""What the command line says of recipes, stages and columns: a line each, from the code."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from gristmill.cli import app
from gristmill.dags.recipes.describe import describe_recipe
from gristmill.dags.recipes.find import RECIPES, recipe
from gristmill.errors import GraphError
from gristmill.pipelines import STAGES


def said(*arguments: str) -> list[str]:
    result: Result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout.splitlines()


def test_recipes_a_line_each() -> None:
    lines = said("recipes")
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(len(line.split()) > 5 for line in lines)


def test_stages_a_line_each_with_their_shapes() -> None:
    lines = said("stages")
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert {line.split()[1] for line in lines} == {
        "Read",
        "Map",
        "Score",
        "Global",
        "Keep",
        "Write",
    }


def test_a_stage_with_its_fields_and_columns() -> None:
    lines = said("stages", "Download")
    assert lines[0] == "Download (Map)"
    (size,) = [line for line in lines if line.startswith("image_size: int = 256 ")]
    assert "pixels, at least 1" in size and "resize_mode" in size
    (connections,) = [line for line in lines if line.startswith("connections: ")]
    assert connections.endswith("(Speed only.)")
    (orientation,) = [line for line in lines if line.startswith("orientation ")]
    assert "1..8" in orientation


def test_a_misspelt_stage() -> None:
    with pytest.raises(GraphError, match="did you mean 'Download'"):
        said("stages", "Downlod")


def test_columns_of_a_recipe_with_the_node_that_writes_them() -> None:
    lines = said("columns")
    (brightness,) = [line for line in lines if " brightness " in line]
    assert brightness.split()[:4] == ["image_facts", "brightness", "float", "0..1"]
    (score,) = [line for line in lines if " filter_score " in line]
    assert score.startswith("filter (left out)")
    assert any(line.startswith("documents ") for line in said("columns", "interleaved"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_described_as_it_stands(name: str) -> None:
    found = describe_recipe(name)
    dag = recipe(name)()
    assert [node.name for node in found.nodes] == dag.order()
    assert found.summary and found.summary in " ".join(found.doc.split())
    known = {column.name for _, column in found.columns()}
    last = [node for node in dag.order() if type(dag.stage(node)).__name__ == "Keep"][-1]
    assert dag.stage(last).columns_named(dag.columns(last)) <= known  # type: ignore[attr-defined]
