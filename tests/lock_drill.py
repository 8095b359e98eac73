"""Drivers that meet on one object store: pairs that start together, and one that is killed.

Prints what came of it, as JSON.

python tests/lock_drill.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from s3_server import s3_server

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.engine.lease import TERM
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder

PAIRS = 3
TERM_S = 6.0


def dag(pictures: str) -> Dag:
    """Pictures read, measured, kept, sharded."""
    return Dag(
        name="drill",
        nodes={
            "source": Node(Source(path=pictures)),
            "download": Node(Download(image_size=32), ("source",)),
            "facts": Node(ImageFacts(), ("download",)),
            "keep": Node(Keep(rules={"none": "uid IS NULL"}), ("facts",)),
            "shards": Node(Shards(samples_per_shard=8, val_share=0.0), ("keep",)),
        },
        part_rows=8,
    )


def driver(recipe: Path, out: str) -> subprocess.Popen[str]:
    """A driver of its own process."""
    command = [sys.executable, "-m", "gristmill", "run", str(recipe), "--out", out,
               "--runner", "local", "--plain"]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def product(out: str) -> dict[str, bytes]:
    """The files of a run's shards."""
    folder = Folder(f"{out}/shards")
    return {name: folder.read_bytes(name) for name in folder.walk()}


def two_at_once(recipe: Path, out: str) -> dict[str, Any]:
    """Start two drivers of one run."""
    pair = [driver(recipe, out) for _ in range(2)]
    said = [one.communicate()[1].strip().splitlines()[-1] for one in pair]
    codes = [one.returncode for one in pair]
    refused = [text for code, text in zip(codes, said, strict=True) if code]
    return {"exit_codes": sorted(codes), "refused": refused}


def killed(recipe: Path, out: str) -> dict[str, Any]:
    """Kill a driver in the middle, and start its successor at once."""
    first = driver(recipe, out)
    assert first.stderr is not None
    assert any("download: start" in line for line in first.stderr)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    begun = time.monotonic()
    second = driver(recipe, out)
    said = second.communicate()[1]
    waits = [line for line in said.splitlines() if "locked by" in line]
    return {
        "exit_code": second.returncode,
        "waited_for": waits,
        "seconds": round(time.monotonic() - begun, 1),
    }


def main(folder: str) -> None:
    """The drill."""
    place = Path(folder)
    (place / "pictures").mkdir(parents=True)
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(place / "pictures" / f"{i:02d}.png"), pixels)
        (place / "pictures" / f"{i:02d}.txt").write_text(f"picture number {i}")
    recipe = place / "dag.yaml"
    recipe.write_text(dump_dag(dag(str(place / "pictures"))))
    os.environ[TERM] = str(TERM_S)
    alone = driver(recipe, str(place / "run"))
    assert alone.wait() == 0, alone.stderr and alone.stderr.read()
    found: dict[str, Any] = {"pairs": []}
    with s3_server():
        for number in range(PAIRS):
            found["pairs"].append(two_at_once(recipe, f"s3://bucket/{number}"))
        found["killed"] = killed(recipe, "s3://bucket/killed")
        outs = [f"s3://bucket/{name}" for name in (*range(PAIRS), "killed")]
        alike = [product(out) == product(str(place / "run")) for out in outs]
        found["same_bytes"] = all(alike)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
