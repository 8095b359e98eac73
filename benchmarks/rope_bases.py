"""What a small model draws by the base of its rotary positions, on the shards of a finished demo.

gristmill demo --out runs/demo
python benchmarks/rope_bases.py runs/demo --bases 100 1000 10000 --seeds 0 1    # a minute each
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from typing import Unpack

from gristmill.model import load
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.network import configurations
from gristmill.model.network.configurations import Changes
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.shapes.scenes import SMALL
from gristmill.model.shapes.suite import evaluate_shapes
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog


def main() -> None:
    """A training as the demo's for each base and seed, judged as the demo judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="Folder of a finished demo.")
    parser.add_argument("--bases", type=float, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    micro = configurations.SIZES["micro"]
    for base, seed in itertools.product(options.bases, options.seeds):

        def sized(vocabulary: int, base: float = base, **changes: Unpack[Changes]) -> ModelConfig:
            changes["rope_base"] = base
            return micro(vocabulary, **changes)

        configurations.SIZES["micro"] = sized
        with tempfile.TemporaryDirectory() as folder:
            source = DataSource(
                url=options.run,
                where=SMALL.without_held_out,
                tasks={"draw": 0.4, "describe": 0.45, "answer": 0.15},
                questions="shapes",
            )
            config = TrainConfig(
                out=os.path.join(folder, "model"), data=(source,), size="micro", seed=seed,
                codec=os.path.join(options.run, "filter-network", "codec.safetensors"),
                steps=options.steps, rows_per_step=32, row_length=104, rate=0.015,
                optimiser="muon", warmup=25, average=0.99,
            )  # fmt: skip
            train(config, TrainLog(config.out, quiet=True))
            scores = evaluate_shapes(
                load(config.out), count=128, most=1, steps=options.steps,
                sampling=Sampling(temperature=0.4, guidance=1.35),
            )  # fmt: skip
        named = ("picture_exact", "caption_exact", "answer_exact_without_existence")
        found = {name: scores[name] for name in named}
        print(json.dumps({"base": base, "seed": seed, **found}), flush=True)


if __name__ == "__main__":
    main()
