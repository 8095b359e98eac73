"""Runs whose requests are counted: pictures on this disk, the run on an S3 server (moto)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from s3_server import FaultyApp

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag

NODES = 8


def draw(folder: Path, rows: int) -> None:
    """Small pictures with captions."""
    folder.mkdir(parents=True)
    for i in range(rows):
        pixels = np.random.default_rng(i).integers(0, 255, (12, 12, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i:04d}.png"), pixels)
        (folder / f"{i:04d}.txt").write_text(f"a picture of noise number {i}")


def counted_dag(pictures: Path, part_rows: int, shard: int = 1000) -> Dag:
    """The eight nodes of pictures with captions that need no weights."""
    return load_dag(
        f"""
dag: counted
part_rows: {part_rows}
nodes:
  source: {{stage: Source, path: "{pictures}"}}
  download: {{stage: Download, inputs: [source], image_size: 12}}
  image: {{stage: ImageFacts, inputs: [download]}}
  hash: {{stage: PerceptualHash, inputs: [download]}}
  facts: {{stage: CaptionFacts, inputs: [download]}}
  duplicates: {{stage: Duplicates, inputs: [hash], prefer: []}}
  keep: {{stage: Keep, inputs: [image, facts, duplicates], rules: {{odd: "caption LIKE '%r 3'"}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.0, samples_per_shard: {shard}}}
""",
        "test",
    )


def run(dag: Dag, out: str) -> RunSummary:
    """Run it in this process."""
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        return execute(dag, out, options, progress)


@contextmanager
def counting(server: FaultyApp) -> Iterator[Counter[str]]:
    """Filled with the requests of the block when it ends, by kind."""
    before, found = server.kinds.copy(), Counter[str]()
    yield found
    found.update(server.kinds - before)
