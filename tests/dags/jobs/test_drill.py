"""The README's cluster on a real head: a job is sent there, its node dies, another comes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import gristmill
from doc_blocks import ROOT, Block, blocks
from drill_dag import small
from ray_nodes import RayNodes, ray_nodes

from gristmill.cli_jobs import LEFT
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.graph import Dag
from gristmill.dags.runs.verify import verify_run

PARTS = 6


def draw_pictures(folder: Path) -> None:
    """Noise, with captions."""
    folder.mkdir()
    for i in range(10 * PARTS):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i:03d}.png"), pixels)
        (folder / f"{i:03d}.txt").write_text(f"picture number {i * i}")


def cluster_block() -> Block:
    """The lines of the README that make a cluster and send a job there."""
    found = [one for one in blocks(ROOT / "README.md") if "ray start --head" in one.text]
    assert len(found) == 1
    return found[0]


def digests(out: Path) -> dict[str, str]:
    """sha256 of every file of the product."""
    files = sorted(p for p in (out / "shards").rglob("*") if p.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def send(nodes: RayNodes, folder: Path, line: str) -> subprocess.Popen[str]:
    """The README's line, with a recipe of the user's own and paths that are here."""
    words = line.partition("#")[0].split()
    assert words[:3] == ["gristmill", "submit", "image-text"]
    assert words[-2:] == ["--address", "http://HEAD:8265"]
    return subprocess.Popen(
        [
            sys.executable, "-m", *words[:2], "drill_dag:small", "--source",
            str(folder / "pictures"), "--out", str(folder / "cluster"), "--set",
            f"slow.marks={folder / 'marks'}", "--address", nodes.url,
        ],
        cwd=ROOT / "tests", env=nodes.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_here(dag: Dag, out: Path) -> None:
    """The same in this process."""
    with Progress() as progress:
        execute(dag, str(out), RunOptions(runner="local"), progress)


@pytest.mark.drill
def test_the_readmes_cluster_loses_a_node_and_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, head, worker, job = cluster_block().lines()
    draw_pictures(tmp_path / "pictures")
    with ray_nodes() as nodes:
        nodes.do(token)
        nodes.start(head, nodes.head, "--num-cpus=0")
        nodes.start(worker, "127.0.0.2", "--num-cpus=1")
        client = send(nodes, tmp_path, job)
        commits = tmp_path / "cluster" / "nodes"
        nodes.wait_for(
            lambda: client.poll() or len(list(commits.glob("slow-*/*.json"))) > 1, "no part done"
        )
        assert client.poll() is None, client.communicate()
        nodes.kill("127.0.0.2")
        # Nobody works now, so the job cannot end before its client is gone.
        client.send_signal(signal.SIGINT)
        said, warned = client.communicate(timeout=60)
        assert client.returncode == LEFT
        nodes.start(worker, "127.0.0.3", "--num-cpus=1")
        assert "slow: start" in said
        name = next(word for word in warned.split() if word.startswith("gristmill-"))
        assert f"gristmill attach {name} --address {nodes.url}" in warned
        assert "every node shares" in warned and "is open" not in warned

        monkeypatch.setenv("HOME", str(tmp_path))
        # A Ray that other tests started left one here.
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        at = ("--address", nodes.url)
        refused = gristmill("attach", name, *at)
        assert refused.returncode == 2 and "asks for a token" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        assert "does not take the token" in gristmill("attach", name, *at).stderr
        monkeypatch.setenv("RAY_AUTH_TOKEN", nodes.token)
        ended = gristmill("attach", name, *at)
        assert ended.returncode == 0, ended.stdout
        assert "the ledger adds up" in ended.stdout and ended.stdout.startswith(said[:100])
        assert f"{name}  SUCCEEDED" in gristmill("jobs", *at).stdout
        assert "has ended already" in gristmill("stop", name, *at).stdout
        assert "no job 'nobody'" in gristmill("attach", "nobody", *at).stderr
        assert nodes.token not in said + warned + ended.stdout + ended.stderr
        logs = [path for path in (tmp_path / "cluster").rglob("*") if path.is_file()]
        assert not any(nodes.token.encode() in path.read_bytes() for path in logs)

    assert len(os.listdir(tmp_path / "marks")) == 2, "the node that came did nothing"
    dag = small(str(tmp_path / "pictures"))
    slow = dataclasses.replace(dag.stage("slow"), marks=str(tmp_path / "here"))
    run_here(dag.replace("slow", slow), tmp_path / "local")
    assert digests(tmp_path / "cluster") == digests(tmp_path / "local")
    assert len(digests(tmp_path / "local")) > 8
    assert verify_run(str(tmp_path / "cluster")) == []
