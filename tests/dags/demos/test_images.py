"""The demo at a small size: what was planted is caught, and the judge can tell when it is not."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gristmill.dags.demos.announce import Steps
from gristmill.dags.demos.images import demo_dag, filter_network
from gristmill.dags.demos.model import train_demo_model
from gristmill.dags.demos.scale import SMALL
from gristmill.dags.demos.truth import COPY_KINDS, judge
from gristmill.dags.demos.web import build_web
from gristmill.dags.demos.web_pages import as_served
from gristmill.dags.demos.web_server import Web, WebServer
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import render_html
from gristmill.dags.runs.trace import trace_sample
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import RunError
from gristmill.model.shapes.scenes import make_scene
from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.download.http_client import Fetcher, FetchPolicy
from gristmill.pipelines.images.clip_score import ClipScore


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Web:
    folder = tmp_path_factory.mktemp("web")
    return build_web(str(folder), scenes=120, seed=3, port=free_port())


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filter network that has hardly learnt: its rule is left out here."""
    from gristmill.model.shapes.scenes import caption, draw, make_scene
    from gristmill.model.training.filter_network import train_filter_network

    scenes = [make_scene(i) for i in range(32)]
    folder = str(tmp_path_factory.mktemp("network"))
    pictures = [draw(scene, 64) for scene in scenes]
    train_filter_network(
        pictures, [caption(scene, 0) for scene in scenes], folder, steps=2, batch_size=32, threads=1
    )
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image codec of few codes."""
    import torch

    from gristmill.model.codecs.patches import KMeansCodec
    from gristmill.model.codecs.registry import save_codec, train_codec
    from gristmill.model.data.center_crop import resize_center_crop
    from gristmill.model.shapes.scenes import draw, make_scene

    views = np.stack([resize_center_crop(draw(make_scene(i), 60), 24) for i in range(40)])
    path = str(tmp_path_factory.mktemp("codec") / "codec.safetensors")
    save_codec(train_codec(KMeansCodec(sizes=(64,)), torch.from_numpy(views)), path)
    return path


def small_dag(little: Web, network: str, codec: str) -> Dag:
    dag = demo_dag(little, network, -1.0, codec)
    dag = dag.replace("clip", ClipScore(model=f"local-dir:{network}"))
    return dataclasses.replace(dag, part_rows=80)


@pytest.fixture(scope="module")
def finished(
    little: Web, network: str, codec: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("run") / "demo"
    with WebServer(little):
        options = RunOptions(runner="local")
        execute(small_dag(little, network, codec), str(out), options, make_progress(plain=True))
    return out


def product(out: Path) -> dict[str, bytes]:
    files = [p for name in ("shards", "ledger") for p in sorted((out / name).rglob("*"))]
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.is_file()}


def test_planted_faults_are_caught_and_nothing_else(little: Web, finished: Path) -> None:
    verdict = judge(little, str(finished))
    for fault, facts in verdict["truth"].items():
        if fault in ("wrong caption", *[name for name in COPY_KINDS if "apart" in name]):
            continue
        assert facts["planted"] > 0
        assert (facts["caught"], facts["false_alarms"]) == (facts["planted"], 0), fault


def test_a_model_trains_on_what_was_kept_and_the_report_shows_it(
    finished: Path, codec: str
) -> None:
    console = Console(file=io.StringIO())
    scale = dataclasses.replace(SMALL, steps=2, judged=8, size="nano", objects=2)
    says = Steps(console, (1.0, 1.0))
    scores = train_demo_model(str(finished), codec, scale, seed=0, says=says)
    assert json.loads((finished / "evaluation.json").read_text()) == scores
    assert scores["steps"] == 2 and scores["suite"] == "shapes"
    page = render_html(gather_report(str(finished)))
    assert "never seen together in training" in page
    assert "A model trained on what was kept" in page and page.count("as asked</p>") >= 24
    # Captions with a held-out pair were not trained on, though they were kept.
    metadata = next((finished / "shards/train/metadata").iterdir())
    captions = " ".join(pq.read_table(metadata)["caption"].to_pylist())
    assert "red star" in captions and "image_codes" in pq.read_schema(metadata).names


def test_the_run_verifies_and_traces(finished: Path) -> None:
    assert verify_run(str(finished)) == []
    table = pq.read_table(next((finished / "shards/train/metadata").iterdir()))
    kept = trace_sample(str(finished), table["uid"][0].as_py())[0]
    assert kept.shard == "shards/train/00000000.tar" and kept.outcome["verdict"] == "kept"
    assert kept.nodes["clip"]["clip_score"] is not None and kept.nodes["download"]["sha256"]
    ledger = pq.read_table(finished / "ledger").to_pylist()
    dead = next(row for row in ledger if row["reason"] == "http 404")
    found = trace_sample(str(finished), dead["url"])[0]
    assert found.uid == dead["uid"] and found.shard is None
    with pytest.raises(RunError, match="no row of"):
        trace_sample(str(finished), "0" * 32)


def test_damage_to_a_run_is_found(finished: Path) -> None:
    ledger = finished / "ledger" / "000000.parquet"
    whole = ledger.read_bytes()
    table = pq.read_table(ledger)
    pq.write_table(table.slice(1), ledger)
    assert any("ledger" in problem for problem in verify_run(str(finished)))
    ledger.write_bytes(whole)
    blobs = next((finished / "nodes").glob("download-*/*.blobs.bin"))
    data = bytearray(blobs.read_bytes())
    data[10] ^= 1
    blobs.write_bytes(data)
    assert any("another digest" in problem for problem in verify_run(str(finished)))
    data[10] ^= 1
    blobs.write_bytes(data)
    assert verify_run(str(finished)) == []


@pytest.mark.drill
def test_ray_writes_the_same_shards_and_ledger(
    little: Web, network: str, codec: str, finished: Path, tmp_path: Path, ray_session: None
) -> None:
    with WebServer(little):
        options = RunOptions(runner="ray", workers=2)
        execute(
            small_dag(little, network, codec), str(tmp_path), options, make_progress(plain=True)
        )
    assert product(tmp_path) == product(finished)


def test_the_report_of_a_real_run_is_self_contained(finished: Path) -> None:
    from html.parser import HTMLParser

    html = render_html(gather_report(str(finished), "gristmill demo"))
    stack: list[str] = []
    loads: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            loads.extend(v for k, v in attributes if k in ("src", "href") and v)
            if tag not in ("meta", "br", "img", "rect", "line", "link"):
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("rect", "line"):
                assert stack.pop() == tag

    Checker().feed(html)
    assert stack == [] and loads and all(load.startswith("data:") for load in loads)
    summary = json.loads((finished / "summary.json").read_text())
    assert f"<b>{summary['kept']}</b>" in html and "http 404" in html


def test_the_same_seed_is_the_same_web(little: Web, tmp_path: Path) -> None:
    again = build_web(str(tmp_path), scenes=120, seed=3, port=little.port)
    for name in ("urls.parquet", "truth.parquet", "routes.json"):
        assert (tmp_path / name).read_bytes() == (Path(little.folder) / name).read_bytes()
    site = sorted((tmp_path / "site").iterdir())
    assert all(p.read_bytes() == (Path(little.folder) / "site" / p.name).read_bytes() for p in site)
    assert again.port == little.port


def test_the_trusted_slice_looks_as_the_web_does(little: Web) -> None:
    for i in range(12):
        (path,) = Path(little.folder, "site").glob(f"{i:06d}.*")
        shown = as_served(make_scene(10**7 * (3 + 1) + i), i)
        assert np.array_equal(decode_rgb(path.read_bytes()), shown)


def test_a_taken_port_is_an_error_with_the_remedy(little: Web) -> None:
    with WebServer(little), pytest.raises(RunError, match="is taken"), WebServer(little):
        pass


def test_the_server_counts_and_redirects(little: Web) -> None:
    routes = json.loads((Path(little.folder) / "routes.json").read_text())
    via = next(path for path, route in routes.items() if route.get("via"))

    async def fetch(url: str) -> bytes | None:
        policy = FetchPolicy(allow_hosts=(f"127.0.0.1:{little.port}",))
        async with Fetcher(policy) as fetcher:
            return (await fetcher.fetch(url)).data

    with WebServer(little) as server:
        data = asyncio.run(fetch(f"http://127.0.0.1:{little.port}{via}"))
        assert data == (Path(little.folder) / "site" / via[1:]).read_bytes()
        assert server.hits() == {via: 1, "/direct" + via: 1}


def test_a_network_trained_before_says_nothing_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "threshold.json").write_text('{"seed": 3, "threshold": 0.25}')
    heard = io.StringIO()
    says = Steps(Console(file=heard, width=200), (10.0, 20.0))
    says.begin("training a filter network")
    assert filter_network(str(tmp_path), 3, says, SMALL) == 0.25
    assert "trained before" in heard.getvalue()
    says.begin("curating")
    assert says.pace == 1.0
