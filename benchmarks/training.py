"""Loading and training by themselves, on shards of the world of shapes.

python benchmarks/training.py loader      # our loader against what `tiny` eats, and webdataset's
python benchmarks/training.py step        # a step with the loader against a batch held in memory
python benchmarks/training.py paradigms   # every paradigm for some minutes, judged by the suite
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from PIL import Image
from shape_shards import build_shapes

from gristmill.model import load
from gristmill.model.codecs import load_codec, save_codec, train_codec
from gristmill.model.filter_network import train_filter_network
from gristmill.model.paradigms import PARADIGMS, find_paradigm
from gristmill.model.parts import make_parts
from gristmill.model.patch_codecs import KMeansCodec, WhitenedPatches
from gristmill.model.sampling import Sampling
from gristmill.model.shapes import caption, draw, make_scene
from gristmill.model.shapes_suite import WITHOUT_HELD_OUT, evaluate_shapes
from gristmill.model.shard_sources import DataSource
from gristmill.model.train import Trainer, steps_of, train
from gristmill.model.train_config import TrainConfig
from gristmill.model.train_log import Meter, TrainLog
from gristmill.model.views import view

PAIRS = 5


def make_data(folder: Path, scenes: int) -> TrainConfig:
    """Shards with codes, codecs and an encoder; made once for a folder."""
    codes, latents = str(folder / "codes"), str(folder / "latents")
    if not (folder / "shards" / "product" / "manifest.json").exists():
        pictures = [draw(make_scene(5 * 10**9 + i), 128) for i in range(2100)]
        texts = [caption(make_scene(5 * 10**9 + i), i) for i in range(2100)]
        for path, codec in ((codes, KMeansCodec()), (latents, WhitenedPatches(components=16))):
            views = np.stack([view(picture, codec.side) for picture in pictures])
            save_codec(train_codec(codec, torch.from_numpy(views)), path)
        train_filter_network(pictures, texts, str(folder / "clip"), steps=150)
        seeds = range(10**7, 10**7 + scenes)
        build_shapes(
            folder / "shards", seeds, side=128, codec=load_codec(codes), samples_per_shard=500
        )
    source = DataSource(
        url=str(folder / "shards" / "product"),
        where=WITHOUT_HELD_OUT,
        tasks={"draw": 0.5, "describe": 0.25, "answer": 0.25},
        questions="shapes",
    )
    return TrainConfig(
        out=str(folder / "out"), data=(source,), codec=codes, steps=1, rate=8e-3,
        optimiser="muon", schedule="wsd",
    )  # fmt: skip


def configure(config: TrainConfig, folder: Path, paradigm: str, experts: str) -> TrainConfig:
    """The same data for another paradigm."""
    kind = find_paradigm(paradigm)
    return dataclasses.replace(
        config,
        out=str(folder / f"{paradigm}-{experts}"),
        paradigm=paradigm,
        experts=experts,
        codec=config.codec if kind.codes else str(folder / "latents"),
        encoder=f"local-dir:{folder / 'clip'}" if "semantic" in kind.see else "",
    )


def tokens_per_s(batches: Any, count: int) -> float:
    """Positions a second of the next batches."""
    start = time.perf_counter()
    tokens = sum(batch.tokens for batch in itertools.islice(batches, count))
    return tokens / (time.perf_counter() - start)


def measure_loader(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Medians of interleaved rounds."""
    pixels = configure(config, folder, "flow", "dense")
    pixels = dataclasses.replace(pixels, cache_mb=0.0)
    loaders = {
        "codes": steps_of(config, make_parts(config)),
        "pixels, not cached": steps_of(pixels, make_parts(pixels)),
    }
    trainer = Trainer(config, make_parts(config), torch.device("cpu"))
    meter = Meter(trainer.parts.vocabulary, trainer.parts.titles)
    held = next(loaders["codes"])
    rates: dict[str, list[float]] = {"model": []}
    for _ in range(PAIRS):
        start = time.perf_counter()
        for _ in range(5):
            trainer._update(held, meter)
        rates["model"].append(5 * held.tokens / (time.perf_counter() - start))
        for name, batches in loaders.items():
            rates.setdefault(name, []).append(tokens_per_s(batches, 20))
        for name, rate in samples_per_s(config, folder).items():
            rates.setdefault(name, []).append(rate)
    return {name: round(statistics.median(values)) for name, values in rates.items()}


def samples_per_s(config: TrainConfig, folder: Path) -> dict[str, float]:
    """Samples a second of decoded pictures and captions from the same tars, one process each."""
    import webdataset

    from gristmill.model.shard_sources import SampleOrder, open_samples
    from gristmill.pipelines.decode import decode_rgb

    samples = open_samples(config.data[0])
    order = SampleOrder([np.arange(count) for count in samples.counts()], 0)
    start = time.perf_counter()
    for number in range(600):
        shard, row = order[number]
        view(decode_rgb(samples.image(shard, row)), 30)
        samples.table(shard)["caption"][row].as_py()
    ours = 600 / (time.perf_counter() - start)
    tars = sorted(str(p) for p in Path(config.data[0].url, "train").glob("*.tar"))
    reader = (
        webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000).to_tuple("jpg", "txt")
    )
    start, stream = time.perf_counter(), iter(reader)
    for _ in range(600):
        data, text = next(stream)
        view(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 30)
        text.decode()
    return {"samples/s": ours, "samples/s, webdataset": 600 / (time.perf_counter() - start)}


def measure_step(config: TrainConfig) -> dict[str, Any]:
    """Seconds a step with the loader, and on batches held in memory; medians of pairs."""
    parts = make_parts(config)
    trainer = Trainer(config, parts, torch.device("cpu"))
    meter = Meter(parts.vocabulary, parts.titles)
    batches = steps_of(config, parts)
    held = list(itertools.islice(batches, 10))
    ratios, seconds = [], []
    for _ in range(PAIRS):
        start = time.perf_counter()
        tokens = sum(batch.tokens for batch in held if trainer._update(batch, meter))
        memory = (time.perf_counter() - start) / tokens
        start = time.perf_counter()
        tokens = 0
        for batch in itertools.islice(batches, 10):
            trainer._update(batch, meter)
            tokens += batch.tokens
        loaded = (time.perf_counter() - start) / tokens
        ratios.append(memory / loaded)
        seconds.append(loaded)
    return {
        "share of the speed on batches in memory": round(statistics.median(ratios), 3),
        "tokens/s": round(1 / statistics.median(seconds)),
    }


def measure_paradigms(
    config: TrainConfig, folder: Path, steps: int, only: list[str], experts: list[str], seed: int
) -> None:
    """Train each, judge each, print a line each."""
    for paradigm, kind in itertools.product(only or list(PARADIGMS), experts):
        chosen = configure(config, folder, paradigm, kind)
        chosen = dataclasses.replace(chosen, steps=steps, seed=seed, out=f"{chosen.out}-{seed}")
        result = train(chosen, TrainLog(chosen.out, quiet=True))
        model = load(chosen.out)
        flows = find_paradigm(paradigm).draw in ("flow", "query")
        sampling = Sampling(temperature=0.7, steps=24, guidance=2.0 if flows else 1.0)
        scores = evaluate_shapes(model, count=200, seed=seed, sampling=sampling, steps=steps)
        wanted = (
            "picture_exact", "picture_exact_shuffled", "caption_exact", "answer_exact",
            "answer_exact_without_existence", "held_out", "codec_ceiling",
        )  # fmt: skip
        line = {"paradigm": paradigm, "experts": kind, "steps": steps, "seed": seed}
        line |= {"seconds": round(result.seconds), "tokens": result.tokens}
        print(json.dumps(line | {name: scores[name] for name in wanted}), flush=True)


def main() -> None:
    """Parse, make the data, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("loader", "step", "paradigms"))
    parser.add_argument(
        "--folder", default=os.path.join(tempfile.gettempdir(), "gristmill-training")
    )
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--experts", nargs="*", default=["dense"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = make_data(folder, options.scenes)
    if options.what == "loader":
        print(json.dumps(measure_loader(config, folder), indent=1))
    elif options.what == "step":
        print(json.dumps(measure_step(config), indent=1))
    else:
        measure_paradigms(
            config, folder, options.steps, options.only, options.experts, options.seed
        )


if __name__ == "__main__":
    main()
