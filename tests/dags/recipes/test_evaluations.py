"""`decontaminate.sources=catalog:NAME@PATH`: benchmarks as the catalog reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_samples import write_sample
from source_files import jpeg

from gristmill.catalogs.catalog import select
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.dags.recipes.evaluations import with_evaluations
from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.dedup.decontaminate import Decontaminate
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sources.source import Source

LONG = "two brown horses graze behind a wooden fence in the evening light of autumn"


def dag(source: Path, *sources: str, **fields: Any) -> Dag:
    """Rows of a source without what evaluations know."""
    stage = Decontaminate(sources=sources, **fields)
    return Dag(
        "clean",
        {
            "source": Node(Source(path=str(source))),
            "download": Node(Download(), ("source",)),
            "hash": Node(PerceptualHash(), ("download",)),
            "known": Node(stage, ("hash",)),
            "keep": Node(Keep(rules={"seen": "contaminated_by IS NOT NULL"}), ("known",)),
        },
    )


def corpus(folder: Path) -> Path:
    """Four pictures: of a benchmark of pictures, with a prompt of another, and two of neither."""
    captions = ["a dog on a red chair", LONG, "a boat", "a cup"]
    rows = [
        {"image": {"bytes": jpeg(i), "path": None}, "caption": text}
        for i, text in enumerate(captions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    return folder / "corpus.parquet"


def test_pictures_and_prompts_of_benchmarks_are_kept_out(tmp_path: Path) -> None:
    mmmu = [{"id": "a", "question": "What?", "image_1": {"bytes": jpeg(0), "path": None}}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("id", pa.string()), ("question", pa.string()), ("image_1", kind), ("image_2", kind)]
    )
    pq.write_table(pa.Table.from_pylist(mmmu, schema), tmp_path / "mmmu.parquet")
    geneval = tmp_path / "evaluation_metadata.jsonl"
    geneval.write_text(json.dumps({"tag": "one", "include": [], "prompt": LONG + " "}) + "\n")
    sources = (f"catalog:mmmu@{tmp_path}/mmmu.parquet", f"catalog:geneval@{geneval}")
    with pytest.raises(ConfigurationError, match="resolved by the command line"):
        dag(corpus(tmp_path), *sources).stage("known").check()
    found = with_evaluations(dag(corpus(tmp_path), *sources))
    stage = found.stage("known")
    assert isinstance(stage, Decontaminate)
    assert stage.sources == (f"hf:{tmp_path}/mmmu.parquet",)
    assert stage.prompts == (f"jsonl:{geneval}",)
    with make_progress(None, None, log=None) as progress:
        summary = execute(found, str(tmp_path / "run"), RunOptions(runner="local"), progress)
    assert (summary["rows_in"], summary["kept"]) == (4, 2)
    assert summary["dropped"]["keep"] == {"seen": 2}


PROMPTS: dict[str, tuple[str, Any]] = {
    "geneval": ("evaluation_metadata.jsonl", {"tag": "x", "include": [], "prompt": "a cup {i}"}),
    "t2i-compbench": ("color_val.txt", "a cup {i}"),
    "dpg-bench": ("dpg_bench.csv", {"item_id": "{i}", "text": "a cup {i}", "category_broad": "x"}),
    "wise": ("cultural_common_sense.json", {"Prompt": "a cup {i}", "Explanation": "x"}),
    "drawbench": ("drawbench.csv", {"Prompts": "a cup {i}", "Category": "Colors"}),
    "partiprompts": ("PartiPrompts.tsv", {"Prompt": "a cup {i}", "Category": "x", "Note": ""}),
    "vbench": ("all_dimension.txt", "a cup {i}"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_read_without_pictures(name: str, tmp_path: Path) -> None:
    path = write_sample(tmp_path, PROMPTS[name])
    stage = with_evaluations(dag(path, f"catalog:{name}@{path}")).stage("known")
    assert isinstance(stage, Decontaminate) and len(stage.prompts) == 1
    stage.check()
    (at,) = stage.prompts
    source = Source(path=at, kind="text", columns=stage.columns_of.get(at, {}))
    source.check_columns()
    rows = [r for c in source.chunks() for t in source.read(c) for r in t.to_pylist()]
    told = [(row["caption"], row["error"]) for row in rows]
    assert told == [(f"a cup {i}", None) for i in range(3)]


def test_every_benchmark_that_names_columns_is_resolved(tmp_path: Path) -> None:
    for entry in select(use="evaluation"):
        path = tmp_path / "any"
        found = with_evaluations(dag(path, f"catalog:{entry.name}@{path}")).stage("known")
        assert isinstance(found, Decontaminate)
        assert len(found.sources) + len(found.prompts) == 1
        assert not found.is_disabled()
    with pytest.raises(ConfigurationError, match="say where the index of mmmu lies"):
        with_evaluations(dag(tmp_path, "catalog:mmmu"))


def test_a_table_without_texts_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        path = write_sample(tmp_path, (name, {"number": 1, "url": "https://a.test/{i}.jpg"}))
        with pytest.raises(SourceError, match="no column of texts among number, url"):
            Source(path=str(path), kind="text").check_columns()
