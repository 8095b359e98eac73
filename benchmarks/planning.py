"""What planning rows costs a rank, by the number of ranks, and what the order of samples holds.

python benchmarks/planning.py            # a minute; shards of the world of shapes, made once
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from shape_shards import build_shapes

from gristmill.model.codecs.patches import KMeansCodec
from gristmill.model.codecs.registry import load_codec, save_codec, train_codec
from gristmill.model.data.dataloader import Loader
from gristmill.model.data.sample_order import SampleOrder
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.training.settings import picture_views
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup

ROWS_A_RANK = 8
STEPS = 40


def main() -> None:
    """Milliseconds a step of rank 0, with so many ranks; and a source of 10^8 samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", default=os.path.join(tempfile.gettempdir(), "gristmill-planning")
    )
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 8, 64])
    options = parser.parse_args()
    config = make_config(Path(options.folder))
    for ranks in options.ranks:
        changed = TrainConfig.from_dict(config.to_dict() | {"rows_per_step": ROWS_A_RANK * ranks})
        setup = make_setup(changed)
        loader = Loader(
            setup.planner, setup.image_tokenizer, setup.planner.config, rank=0, world=ranks
        )
        steps = loader.plans()
        next(steps)
        began = time.perf_counter()
        documents = sum(len(row) for step in itertools.islice(steps, STEPS) for row in step)
        spent = time.perf_counter() - began
        print(
            json.dumps(
                {"ranks": ranks, "rows a step": ROWS_A_RANK * ranks,
                 "ms a step of rank 0": round(1000 * spent / STEPS, 1),
                 "documents/s of all ranks": round(ranks * documents / spent)}
            )
        )  # fmt: skip
    tracemalloc.start()
    order = SampleOrder([10_000] * 10_000, 0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    order[0]
    places = range(1, 10_000)
    times = []
    for number in places:
        began = time.perf_counter()
        order[number]
        times.append(time.perf_counter() - began)
    print(
        json.dumps(
            {"samples": order.size, "shards": 10_000, "MB held": round(held / 1e6, 1),
             "microseconds a look-up": round(1e6 * statistics.median(times), 1)}
        )
    )  # fmt: skip


def make_config(folder: Path) -> TrainConfig:
    """4,000 scenes in 16 shards, with their codes."""
    codes, product = folder / "codes", folder / "shards" / "product"
    if not (product / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        plain = build_shapes(folder / "plain", range(600), side=64, samples_per_shard=300)
        views = picture_views([str(plain)], side=24, count=600)
        save_codec(train_codec(KMeansCodec(sizes=(512,)), views), str(codes))
        build_shapes(
            folder / "shards", range(10**6, 10**6 + 4000), side=64, codec=load_codec(str(codes)),
            samples_per_shard=250,
        )  # fmt: skip
    source = DataSource(url=str(product), tasks={"draw": 0.5, "describe": 0.5})
    return TrainConfig(
        out=str(folder / "out"), data=(source,), codec=str(codes), size="nano", steps=1,
        row_length=512,
    )  # fmt: skip


if __name__ == "__main__":
    main()
