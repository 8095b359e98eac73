"""Which paths a cluster cannot reach, and which it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill.dags.graph import Dag, Node
from gristmill.dags.jobs.reach import require_reach
from gristmill.errors import ConfigurationError
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.sources.source import Source


def dag(path: str, images: str = "", weights: str = "") -> Dag:
    """A source, and a stage that loads a file."""
    nodes = {
        "source": Node(Source(path=path, images=images)),
        "download": Node(Download(), ("source",)),
        "clip": Node(ClipScore(pretrained=weights), ("download",)),
    }
    return Dag(name="some", nodes=nodes)


@pytest.mark.parametrize(
    ("path", "images", "out"),
    [
        ("photos", "", "s3://bucket/run"),
        ("coco:captions.json", "", "s3://bucket/run"),
        ("s3://bucket/a.parquet, b.parquet", "", "s3://bucket/run"),
        ("s3://bucket/a.parquet", "pictures", "s3://bucket/run"),
        ("s3://bucket/a.parquet", "", "runs/mine"),
        ("simplecache::file://a.parquet", "", "s3://bucket/run"),
    ],
)
def test_what_lies_on_this_machine_is_refused(path: str, images: str, out: str) -> None:
    with pytest.raises(ConfigurationError, match="no node of the cluster reaches") as refused:
        require_reach(dag(path, images), out)
    assert "\n" not in str(refused.value)


def test_a_shared_file_system_is_warned_of_and_a_store_is_not(tmp_path: Path) -> None:
    store = "tars:s3://bucket/{0..9}.tar,hf://datasets/a/b.parquet,https://a.test/c.parquet"
    assert require_reach(dag(store, "gs://bucket/pictures"), "s3://bucket/run") == []
    warned = require_reach(dag("folder:/shared/a", "file:///shared/b"), "/shared/run")
    assert [line.split()[0] for line in warned] == ["--out", "--source", "--images"]
    assert all("every node shares" in line for line in warned)


def test_files_that_a_stage_loads_are_warned_of(tmp_path: Path) -> None:
    weights = tmp_path / "clip.safetensors"
    weights.write_bytes(b"")
    (warning,) = require_reach(dag("s3://bucket/a.parquet", weights=str(weights)), "s3://b/run")
    assert warning.startswith(f"clip loads {weights}, which does not travel")
