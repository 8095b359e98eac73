"""A run on a Ray cluster of a head and two nodes, one of which is killed in the middle.

Prints what came of it, as JSON.

python tests/cluster_drill.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

import cv2
import numpy as np
import toy_stages
from ray.cluster_utils import Cluster

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source

PARTS = 14


def dag(pictures: str, marks: str) -> Dag:
    """Pictures read, scored slowly, kept, sharded."""
    return Dag(
        name="drill",
        nodes={
            "source": Node(Source(path=pictures)),
            "download": Node(Download(image_size=32), ("source",)),
            "slow": Node(toy_stages.ToySlow(marks=marks, seconds=0.7), ("download",)),
            "keep": Node(Keep(rules={"odd": "slowly < 20"}), ("slow",)),
            "shards": Node(Shards(samples_per_shard=20, val_share=0.0), ("keep",)),
        },
        part_rows=10,
    )


def draw_pictures(folder: Path) -> None:
    """Noise, with captions."""
    folder.mkdir()
    for i in range(10 * PARTS):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i:03d}.png"), pixels)
        (folder / f"{i:03d}.txt").write_text(f"picture number {i * i}")


def run(out: Path, marks: Path, runner: str, address: str | None = None) -> dict[str, Any]:
    """One run; its summary."""
    with make_progress(None, True, log=None) as progress:
        return execute(
            dag(str(out.parent / "pictures"), str(marks)),
            str(out),
            RunOptions(runner=runner, address=address),
            progress,
        )


def digests(out: Path) -> dict[str, str]:
    """sha256 of every file of the product."""
    files = sorted(p for p in (out / "shards").rglob("*") if p.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def kill_one(cluster: Cluster, nodes: list[Any], out: Path, marks: Path) -> None:
    """Wait until a node has done some parts and more are to come, and take it away."""
    while True:
        time.sleep(0.05)
        done = len(list((out / "nodes").glob("slow-*/*.json"))) if out.exists() else 0
        for node in nodes:
            if "raylet" not in node.all_processes:
                continue
            pid = str(node.all_processes["raylet"][0].process.pid)
            if 3 <= done < PARTS - 4 and (marks / pid).exists():
                print(f"killing a node after {done} of {PARTS} parts", file=sys.stderr)
                cluster.remove_node(node, allow_graceful=False)
                return


def main() -> None:
    """The drill."""
    folder = Path(sys.argv[1])
    marks = folder / "marks"
    draw_pictures(folder / "pictures")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    killer = threading.Thread(
        target=kill_one, args=(cluster, nodes, folder / "cluster", marks), daemon=True
    )
    killer.start()
    summary = run(folder / "cluster", marks, "ray", cluster.address)
    spread = sorted(mark.name for mark in marks.iterdir())
    killed = not killer.is_alive()
    cluster.shutdown()
    run(folder / "local", folder / "marks", "local")
    same = digests(folder / "cluster") == digests(folder / "local")
    print(
        json.dumps(
            {
                "nodes that worked": len(spread), "killed": killed, "same bytes": same,
                "files": len(digests(folder / "local")), "ledger_ok": summary["ledger_ok"],
                "problems": verify_run(str(folder / "cluster")),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
