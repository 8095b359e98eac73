"""Types of carried columns are found by the first rows of the source, for rules, shards and
ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from counted_runs import draw

from gristmill.dags.dag_yaml import dump_dag, load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.lay_out import lay_out
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.source_types import (
    check_list,
    with_source_columns,
    with_source_types,
)
from gristmill.dags.graph import Dag, Node
from gristmill.dags.recipes.edit import edit
from gristmill.dags.recipes.image_text import image_text
from gristmill.dags.recipes.interleaved import interleaved
from gristmill.dags.recipes.video_text import video_text
from gristmill.errors import ConfigurationError, GraphError, SourceError
from gristmill.pipelines.keep import Prefilter
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.source_columns import SourceColumns

ROWS = 4
DAG = """
dag: carried
nodes:
  source: {{stage: Source, path: "{path}"}}
  source_columns: {{stage: SourceColumns, inputs: [source], columns: {{similarity: similarity, nsfw: nsfw}}}}
  prefilter: {{stage: Prefilter, inputs: [source_columns], rules: {{unlike: "similarity < 0.2"}}}}
  download: {{stage: Download, inputs: [prefilter]}}
  keep: {{stage: Keep, inputs: [download], rules: {{nsfw: "nsfw = 'NSFW'"}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.0}}
"""  # noqa: E501


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    draw(tmp_path / "pictures", ROWS)
    names = sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))
    said = [(0.1, "UNLIKELY"), (0.2, "NSFW"), (None, "UNLIKELY"), (0.4, "UNLIKELY")]
    with open(tmp_path / "list.jsonl", "w", encoding="utf-8") as file:
        for name, (similarity, nsfw) in zip(names, said, strict=True):
            row = {"file_name": f"pictures/{name}", "caption": name}
            print(json.dumps({**row, "similarity": similarity, "nsfw": nsfw}), file=file)
    return tmp_path / "list.jsonl"


def test_rules_ledger_and_shards_have_them(listed: Path, tmp_path: Path) -> None:
    dag, out = load_dag(DAG.format(path=listed), "test"), tmp_path / "run"
    with make_progress(None, True, log=None) as progress:
        summary = execute(dag, str(out), RunOptions(runner="local"), progress)
    assert summary["dropped"] == {
        "prefilter": {"no value": 1, "unlike": 1}, "keep": {"nsfw": 1},
    }  # fmt: skip
    ledger = pq.read_table(out / "ledger").to_pydict()
    assert ledger["similarity"] == [0.1, 0.2, None, 0.4] and ledger["nsfw"][1] == "NSFW"
    [sample] = list(ShardSet(str(out / "shards")))
    assert (sample.columns["similarity"], sample.columns["nsfw"]) == (0.4, "UNLIKELY")
    stored = pq.read_schema(out / "shards/train/metadata/00000000.parquet")
    assert str(stored.field("similarity").type) == "double"
    with make_progress(None, True, log=None) as progress:
        again = execute(dag, str(out), RunOptions(runner="local"), progress)
    assert all(node["reused"] == node["parts"] for node in again["nodes"].values())


def test_a_graph_says_the_types_that_were_found(listed: Path, tmp_path: Path) -> None:
    dag = load_dag(DAG.format(path=listed), "test")
    found = lay_out(dag, str(tmp_path / "run")).dag
    assert "similarity: float64" in dump_dag(found)
    assert with_source_types(found) is found, "and nothing is read where they are known"
    with pytest.raises(SourceError, match="no column 'nsfw'; did you mean 'NSFW'"):
        listed.write_text(listed.read_text().replace("nsfw", "NSFW"))
        lay_out(dag, str(tmp_path / "run"))


def test_a_recipe_carries_what_is_named(listed: Path) -> None:
    dag = with_source_columns(image_text(path=str(listed)), ["similarity,bad=nsfw"])
    stage = dag.stage("source_columns")
    assert stage == SourceColumns(
        columns={"similarity": "similarity", "bad": "nsfw"},
        types={"similarity": "float64", "bad": "string"},
    )
    bare = Dag("bare", {"source": Node(Source(path=str(listed)))})
    with pytest.raises(ConfigurationError, match="give it one of SourceColumns"):
        with_source_columns(bare, ["similarity"])


def test_a_name_that_a_node_writes_already_is_refused(listed: Path) -> None:
    dag = with_source_columns(image_text(path=str(listed)), ["caption_words=nsfw"])
    with pytest.raises(GraphError, match="both write the column 'caption_words'"):
        dag.without_idle().validate()


@pytest.mark.parametrize("recipe", [image_text, video_text, interleaved, edit])
def test_without_columns_recipes_are_what_they_were(recipe: Callable[..., Dag]) -> None:
    dag = recipe(path="x").without_idle()
    assert not any(isinstance(node.stage, SourceColumns) for node in dag.nodes.values())
    assert not any(isinstance(node.stage, Prefilter) for node in dag.nodes.values())


def test_a_list_of_other_types_is_refused_before_anything_is_read(
    listed: Path, tmp_path: Path
) -> None:
    dag = with_source_types(load_dag(DAG.format(path=listed), "test"))
    fits, other, bare = (tmp_path / f"{name}.csv" for name in ("fits", "other", "bare"))
    fits.write_text("url,similarity,nsfw\nhttp://a/1,1,UNLIKELY\n")
    other.write_text("url,similarity,nsfw\nhttp://a/1,high,UNLIKELY\n")
    bare.write_text("url,similarity\nhttp://a/1,0.5\n")
    check_list(dag, Source(path=str(fits)))
    with pytest.raises(SourceError, match="holds string, and in this run it is float64"):
        check_list(dag, Source(path=str(other)))
    with pytest.raises(SourceError, match="no column 'nsfw'"):
        check_list(dag, Source(path=str(bare)))
