"""Shards beside webdataset: written, read, read with the same decoder, verified.

    python benchmarks/shards.py [--pictures 4000] [--pairs 5] [--side 256]

Ours and webdataset's in turn, one process each, on the same pictures (JPEGs of 256 x 256, about 25
kB, or another side) with the same captions and JSON. Writing: from a run's stored bytes to shards
with sidecars and manifest, against webdataset's TarWriter from files. Medians of pairs, with their
range.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import webdataset

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.sources.source import Source

SHARD = 1000


class Quiet(Progress):
    """Says nothing."""

    def _show(self, line: str, state: object = None) -> None:
        return None


def draw(folder: Path, pictures: int, side: int) -> None:
    """Pictures with something in them, and captions."""
    folder.mkdir()
    for i in range(pictures):
        rng = np.random.default_rng(i)
        pixels = cv2.resize(rng.integers(0, 255, (side // 4, side // 4, 3), np.uint8), (side, side))
        cv2.imwrite(str(folder / f"{i:06d}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        (folder / f"{i:06d}.txt").write_text(f"picture {i}, of noise as it is drawn for a figure")


def dag(folder: Path, seed: int) -> Dag:
    """Pictures kept as they are, and sharded."""
    nodes = {
        "source": Node(Source(path=str(folder))),
        "download": Node(Download(reencode="never"), ("source",)),
        "keep": Node(Keep(rules={}), ("download",)),
        "shards": Node(Shards(samples_per_shard=SHARD, val_share=0.0, seed=seed), ("keep",)),
    }
    return Dag("figure", nodes, part_rows=SHARD)


def run(folder: Path, out: Path, seed: int) -> float:
    """Seconds of a run in this process; after the first, only shards are left to do."""
    options = RunOptions(runner="local", workers=1, supervision=Supervision(isolate=False))
    start = time.perf_counter()
    with Quiet() as progress:
        execute(dag(folder, seed), str(out), options, progress)
    return time.perf_counter() - start


def theirs(folder: Path, out: Path, columns: list[dict[str, object]]) -> float:
    """Seconds of webdataset for the same members."""
    out.mkdir(exist_ok=True)
    names = sorted(glob.glob(f"{folder}/*.jpg"))
    start = time.perf_counter()
    for shard in range(0, len(names), SHARD):
        with webdataset.TarWriter(f"{out}/{shard:06d}.tar", encoder=False) as writer:
            for name, facts in zip(names[shard : shard + SHARD], columns[shard:], strict=False):
                stem = name.removesuffix(".jpg")
                writer.write(
                    {
                        "__key__": os.path.basename(stem),
                        "jpg": Path(name).read_bytes(),
                        "json": json.dumps(facts).encode(),
                        "txt": Path(f"{stem}.txt").read_bytes(),
                    }
                )
    return time.perf_counter() - start


def looked_at(data: bytes) -> int:
    """Decode a picture."""
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[0])


def ours_read(shards: str, look: Callable[[bytes], int]) -> int:
    """Bytes or rows of all pictures, by our reader."""
    return sum(look(sample.image) for sample in ShardSet(shards))


def theirs_read(shards: str, look: Callable[[bytes], int]) -> int:
    """The same, by webdataset's."""
    tars = sorted(glob.glob(f"{shards}/train/*.tar"))
    samples: Iterator[dict[str, bytes]] = webdataset.WebDataset(tars, shardshuffle=False)
    return sum(look(sample["jpg"]) for sample in samples)


def hashed(shards: str) -> None:
    """Read every file, and its sha256."""
    for place in glob.glob(f"{shards}/**", recursive=True):
        if os.path.isfile(place):
            hashlib.sha256(Path(place).read_bytes()).hexdigest()


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def say(what: str, pairs: list[tuple[float, float]], count: int) -> None:
    """Rates and their ratio: above 1, ours is faster."""
    ratios = [their / our for our, their in pairs]
    our, their = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(
        f"{what}: ours {count / our:,.0f}/s, the other {count / their:,.0f}/s, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pictures, out = Path(scratch) / "pictures", Path(scratch) / "run"
        draw(pictures, options.pictures, options.side)
        run(pictures, out, 0)
        shards, count = str(out / "shards"), options.pictures
        facts = [sample.columns for sample in ShardSet(shards)]
        nothing = statistics.median(run(pictures, out, 0) for _ in range(3))
        found = [
            (run(pictures, out, 1 + pair) - nothing, theirs(pictures, Path(scratch) / "w", facts))
            for pair in range(options.pairs)
        ]
        say("written", found, count)
        for what, look in (("read", len), ("read and decoded", looked_at)):
            found = [
                (
                    seconds(lambda look=look: ours_read(shards, look)),  # type: ignore[misc]
                    seconds(lambda look=look: theirs_read(shards, look)),  # type: ignore[misc]
                )
                for _ in range(options.pairs)
            ]
            say(what, found, count)
        found = [
            (seconds(lambda: verify_shards(shards)), seconds(lambda: hashed(shards)))
            for _ in range(options.pairs)
        ]
        say("verified, against reading and hashing", found, count)


if __name__ == "__main__":
    main()
