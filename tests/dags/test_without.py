"""A Dag without a node: what stands on it goes or does without, and says so."""

from __future__ import annotations

import pytest
from toy_stages import ToyBrightness, ToyDraw, ToyLength, ToyRows

from gristmill.dags.dag_yaml import dump_dag, load_dag
from gristmill.dags.graph import Dag, Node
from gristmill.dags.recipes.find import RECIPES, recipe
from gristmill.dags.without import why_not
from gristmill.errors import GraphError
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.keep import Keep


def toy() -> Dag:
    nodes = {
        "rows": Node(ToyRows()),
        "draw": Node(ToyDraw(), ("rows",)),
        "bright": Node(ToyBrightness(), ("draw",)),
        "length": Node(ToyLength(), ("bright",)),
        "meaning": Node(SemanticClusters(embedding="toy_embedding", prefer=()), ("bright",)),
        "keep": Node(
            Keep(
                rules={"dark": "brightness < 9", "short": "length < 1", "odd": "density_share > 2"},
                captions="best",
                best_by="brightness",
            ),
            ("length", "meaning"),
        ),
    }
    return Dag("toy", nodes, part_rows=16)


def test_what_stands_on_a_node_goes_or_does_without_and_is_said() -> None:
    dag = toy().without("bright")
    dag.validate()
    assert list(dag.nodes) == ["rows", "draw", "length", "keep"]
    assert dag.nodes["length"].inputs == ("draw",)
    assert dag.nodes["keep"].inputs == ("length",), "draw is reached through length"
    assert dag.stage("keep").rules == {"short": "length < 1"}
    assert dag.stage("keep").captions == "first"
    assert dag.left_out == (
        "without bright: left out",
        "without bright: meaning: left out as well: SemanticClusters reads column "
        "'toy_embedding', which no node before it writes",
        "without bright: keep: rule 'dark' left out, it names brightness",
        "without bright: keep: rule 'odd' left out, it names density_share",
        "without bright: keep: captions=first, not the best by brightness",
    )


def test_a_node_that_nothing_stands_on_takes_nothing_with_it() -> None:
    dag = toy().without("meaning")
    assert set(toy().nodes) - set(dag.nodes) == {"meaning"}
    assert dag.without("length").nodes["keep"].inputs == ("bright",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rows", "rows cannot be left out: it is the source"),
        ("draw", "draw cannot be left out: rows go through it, .* what ToyDraw makes"),
        ("keep", r"empty its rules instead: --set keep\.rules=\{\}"),
        ("brihgt", "did you mean 'bright'"),
    ],
)
def test_a_node_that_rows_go_through_stays(name: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        toy().without(name)


@pytest.mark.parametrize("name", RECIPES)
def test_each_node_of_each_recipe_can_go_or_says_why_not(name: str) -> None:
    whole = recipe(name)(path="nowhere")
    for node in whole.nodes:
        # Clips are cut where Shots says.
        if why_not(whole, node) or node == "shots":
            with pytest.raises(GraphError, match=f"{node} cannot be left out: "):
                whole.without(node)
        else:
            left = whole.without(node)
            left.without_idle().validate()
            assert node not in left.nodes and left.left_out[0] == f"without {node}: left out"
            again = load_dag(dump_dag(left))
            assert again == left and again.left_out == left.left_out


def test_copies_are_found_without_a_score_to_prefer_by() -> None:
    dag = recipe("image-text")(path="nowhere").without("clip", "semantic")
    assert {"semantic", "heads"}.isdisjoint(dag.nodes)
    assert dag.stage("duplicates") == Duplicates(prefer=())
    assert "weak caption match" not in dag.stage("keep").rules
    assert "without clip: duplicates: nothing is preferred by clip_score" in dag.left_out


def test_a_row_node_that_needs_the_columns_keeps_the_node() -> None:
    from gristmill.dags.settings import apply_settings

    dag = apply_settings(recipe("interleaved")(path="x"), ["documents.placement=match"])
    with pytest.raises(GraphError, match="clip cannot be left out: documents needs its columns"):
        dag.without("clip")


def test_yaml_says_it_too() -> None:
    text = dump_dag(toy()).replace("nodes:", "without: [bright, meaning]\nnodes:", 1)
    assert load_dag(text) == toy().without("bright")
    assert load_dag(text.replace("[bright, meaning]", "bright")).left_out
    with pytest.raises(GraphError, match=r"without is \{'a': 1\}; it must be a list"):
        load_dag(text.replace("[bright, meaning]", "{a: 1}"))
