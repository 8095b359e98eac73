"""Source and run on an object store, with faults: the same shards as on a disk, and resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from s3_server import FaultyApp, s3_server

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.lease import TERM
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag
from gristmill.dags.runs.clean import clean_run
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.verify import verify_run
from gristmill.dags.session import write_report
from gristmill.errors import StorageError
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.storage import Folder

ROWS = 16


def dag(pictures: str) -> Dag:
    return load_dag(
        f"""
dag: small
part_rows: 8
nodes:
  source: {{stage: Source, path: "{pictures}"}}
  download: {{stage: Download, inputs: [source], image_size: 32}}
  hash: {{stage: PerceptualHash, inputs: [download]}}
  facts: {{stage: CaptionFacts, inputs: [download]}}
  duplicates: {{stage: Duplicates, inputs: [hash], prefer: []}}
  keep: {{stage: Keep, inputs: [facts, duplicates], rules: {{odd: "caption LIKE '%number 3'"}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.2, samples_per_shard: 8}}
""",
        "test",
    )


def run(pictures: str, out: str) -> dict[str, object]:
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        return execute(dag(pictures), out, options, progress)


def product(out: str) -> dict[str, bytes]:
    folder = Folder(f"{out}/shards")
    return {name: folder.read_bytes(name) for name in folder.walk()}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "pictures").mkdir()
    for i in range(ROWS):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{i:02d}.png"), pixels)
        (folder / "pictures" / f"{i:02d}.txt").write_text(f"a picture of noise number {i}")
    run(str(folder / "pictures"), str(folder / "run"))
    return folder


@pytest.fixture
def server(on_disk: Path) -> Iterator[FaultyApp]:
    with s3_server() as app:
        fs = fsspec.filesystem("s3")
        fs.put(str(on_disk / "pictures"), "bucket/pictures", recursive=True)
        yield app


def test_the_same_bytes_in_spite_of_faults_and_everything_else_works_there_too(
    server: FaultyApp, on_disk: Path
) -> None:
    server.refuse, server.drop = 41, 53
    out = "s3://bucket/run"
    summary = run("s3://bucket/pictures", out)
    assert server.faults > 8
    assert summary["ledger_ok"] and summary["kept"] == ROWS - 1
    assert product(out) == product(str(on_disk / "run"))
    server.refuse = server.drop = 0
    assert verify_run(out) == []
    again = run("s3://bucket/pictures", out)
    assert all(node["reused"] == node["parts"] for node in again["nodes"].values())  # type: ignore[attr-defined]

    write_report(out)
    assert b"<html" in Folder(out).read_bytes("report.html")
    assert choose(out, {"rules": {}}).kept == ROWS
    uid = ShardSet(f"{out}/shards")[0].uid
    assert forget(out, [("uid", uid)]).skipped == 1
    assert uid not in {sample.uid for sample in ShardSet(f"{out}/shards")}
    assert clean_run(out) > 0
    run("s3://bucket/pictures", out)
    assert len(ShardSet(f"{out}/shards")) + len(ShardSet(f"{out}/shards", "val")) == ROWS - 2


def test_a_store_that_goes_away_and_comes_back(
    server: FaultyApp, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    # A lease that could not be given back is watched for so long.
    monkeypatch.setenv(TERM, "0.5")
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    stopped = 0
    while stopped < 8:
        # Each time it gets farther before the store is gone.
        server.down_after = server.requests + 150 * 2**stopped
        try:
            run("s3://bucket/pictures", "s3://bucket/run")
            break
        except StorageError:
            stopped += 1
        finally:
            server.down_after = None
            fsspec.filesystem("s3").clear_instance_cache()
    assert stopped >= 2
    assert product("s3://bucket/run") == product(str(on_disk / "run"))
    assert verify_run("s3://bucket/run") == []
