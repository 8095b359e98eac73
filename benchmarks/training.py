"""Loading and training by themselves, on shards of the world of shapes.

python benchmarks/training.py loader      # our loader against what `tiny` eats, and webdataset's
python benchmarks/training.py step        # a step with the loader against a batch held in memory
python benchmarks/training.py paradigms   # every paradigm for some minutes, judged by the suite
                                          # (--wide: 12 colours, 8 shapes)
python benchmarks/training.py kills       # kill -9 at random moments; the curve must be the same
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from PIL import Image
from shape_shards import build_shapes

from gristmill.model import load
from gristmill.model.codecs.autoencoders import FsqCodec
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.patches import KMeansCodec, RawPatches
from gristmill.model.codecs.registry import CodecTraining, load_codec, save_codec, train_codec
from gristmill.model.codecs.two_colours import TwoColourCodec
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.paradigms import PARADIGMS, find_paradigm
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.shapes.parser import SIDE
from gristmill.model.shapes.questions import wide_questions
from gristmill.model.shapes.scenes import SMALL, WIDE, World, caption, draw, make_scene
from gristmill.model.shapes.suite import evaluate_shapes
from gristmill.model.training.filter_network import train_filter_network
from gristmill.model.training.machine import keep_freed_memory
from gristmill.model.training.train import Trainer, steps_of, train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log
from gristmill.model.training.train_meter import Meter
from gristmill.model.training.training_setup import make_setup

PAIRS = 5
CODECS: dict[str, Callable[[], Codec]] = {
    "codes": KMeansCodec,
    # Two codes to a place: what the first left over, and digits that share no meaning.
    "residual": lambda: KMeansCodec(sizes=(256, 256)),
    "fsq": lambda: FsqCodec(levels=((8, 8, 8), (8, 8, 8))),
    # A pattern, and the two colours that it lies between.
    "two-colour": TwoColourCodec,
    "patches": RawPatches,
}


def make_data(folder: Path, scenes: int, world: World, kinds: Collection[str]) -> TrainConfig:
    """Shards with codes, codecs of these kinds and an encoder; made once for a folder."""
    codes = str(folder / "codes")
    missing = [name for name in sorted(kinds) if not (folder / name).exists()]
    if missing or not (folder / "shards" / "product" / "manifest.json").exists():
        shown = [make_scene(5 * 10**9 + i, world=world) for i in range(2100)]
        pictures = [draw(scene, 128) for scene in shown]
        texts = [caption(scene, i) for i, scene in enumerate(shown)]
        views = torch.from_numpy(
            np.stack([resize_center_crop(picture, SIDE) for picture in pictures])
        )
        for name in missing:
            made = train_codec(CODECS[name](), views, CodecTraining(steps=1500))
            print(name, made.ceiling, flush=True)
            save_codec(made, str(folder / name))
        if not (folder / "clip").exists():
            train_filter_network(pictures, texts, str(folder / "clip"), steps=150)
    if not (folder / "shards" / "product" / "manifest.json").exists():
        seeds = range(10**7, 10**7 + scenes)
        build_shapes(
            folder / "shards", seeds, side=128, codec=load_codec(codes), samples_per_shard=500,
            world=world,
        )  # fmt: skip
    source = DataSource(
        url=str(folder / "shards" / "product"),
        where=world.without_held_out,
        tasks={"draw": 0.5, "describe": 0.2, "answer": 0.3},
        questions="shapes" if world == SMALL else f"{wide_questions.__module__}:wide_questions",
    )
    return TrainConfig(
        out=str(folder / "out"), data=(source,), codec=codes, steps=1, rate=1e-2,
        rows_per_step=26, row_length=160, optimiser="muon",
    )  # fmt: skip


def configure(
    config: TrainConfig, folder: Path, paradigm: str, experts: str, codec: str = "codes"
) -> TrainConfig:
    """The same data for another paradigm; `codec` is of those that write codes."""
    kind = find_paradigm(paradigm)
    return dataclasses.replace(
        config,
        out=str(folder / f"{paradigm}-{experts}"),
        paradigm=paradigm,
        experts=experts,
        codec=str(folder / (codec if kind.codes else "patches")),
        encoder=f"local-dir:{folder / 'clip'}" if "semantic" in kind.image_inputs else "",
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
        "codes": steps_of(config, make_setup(config)),
        "pixels, not cached": steps_of(pixels, make_setup(pixels)),
    }
    trainer = Trainer(config, make_setup(config), torch.device("cpu"))
    meter = Meter(trainer.setup.vocabulary, trainer.setup.titles)
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

    from gristmill.model.data.sample_order import SampleOrder
    from gristmill.model.data.shard_sources import open_samples

    samples = open_samples(config.data[0])
    order = SampleOrder(samples.counts(), 0)
    start = time.perf_counter()
    for number in range(600):
        shard, row = order[number]
        resize_center_crop(samples.picture(shard, row), SIDE)
        samples.table(shard)["caption"][row].as_py()
    ours = 600 / (time.perf_counter() - start)
    tars = sorted(str(p) for p in Path(config.data[0].url, "train").glob("*.tar"))
    reader = (
        webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000).to_tuple("jpg", "txt")
    )
    start, stream = time.perf_counter(), iter(reader)
    for _ in range(600):
        data, text = next(stream)
        resize_center_crop(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), SIDE)
        text.decode()
    return {"samples/s": ours, "samples/s, webdataset": 600 / (time.perf_counter() - start)}


def measure_step(config: TrainConfig) -> dict[str, Any]:
    """The speed of steps with the loader against that of the same steps, the same batches lying in
    memory; medians of pairs, one first and then the other."""
    setup = make_setup(config)
    trainer = Trainer(config, setup, torch.device("cpu"))
    meter = Meter(setup.vocabulary, setup.titles)
    loaded, copied = steps_of(config, setup), steps_of(config, setup)

    def seconds(batches: Iterable[PackedBatch]) -> float:
        start = time.perf_counter()
        tokens = sum(batch.tokens for batch in batches if trainer._update(batch, meter))
        return (time.perf_counter() - start) / tokens

    seconds(itertools.islice(loaded, 5))
    seconds(itertools.islice(copied, 5))
    shares, rates = [], []
    for number in range(2 * PAIRS):
        held = list(itertools.islice(copied, 20))
        memory = seconds(held) if number % 2 else 0.0
        streamed = seconds(itertools.islice(loaded, 20))
        memory = memory or seconds(held)
        shares.append(memory / streamed)
        rates.append(1 / streamed)
    return {
        "share of the speed on batches in memory": round(statistics.median(shares), 3),
        "tokens/s": round(statistics.median(rates)),
    }


def measure_paradigms(config: TrainConfig, folder: Path, options: argparse.Namespace) -> None:
    """Train each, judge each, print a line each."""
    for paradigm, kind in itertools.product(options.only or list(PARADIGMS), options.experts):
        chosen = configure(config, folder, paradigm, kind, options.codec)
        length, steps, seed = options.row_length, options.steps, options.seed
        chosen = dataclasses.replace(
            chosen, steps=steps, seed=seed, out=f"{chosen.out}-{options.codec}-{steps}-{seed}",
            row_length=length, rows_per_step=4160 // length,
        )  # fmt: skip
        result = train(chosen, TrainLog(chosen.out, quiet=True))
        model = load(chosen.out)
        flows = not find_paradigm(paradigm).codes
        sampling = Sampling(temperature=0.4, steps=24, guidance=1.5 if flows else 1.35)
        scores = evaluate_shapes(
            model, count=options.judged, seed=seed, sampling=sampling, steps=steps,
            world=WIDE if options.wide else SMALL,
        )  # fmt: skip
        wanted = (
            "picture_exact", "picture_exact_shuffled", "caption_exact", "answer_exact",
            "answer_exact_without_existence", "held_out", "codec_ceiling",
        )  # fmt: skip
        line = {"paradigm": paradigm, "experts": kind, "codec": options.codec, "steps": steps}
        line |= {"scenes": options.scenes, "seed": seed, "wide": options.wide}
        line |= {"seconds": round(result.seconds), "tokens": result.tokens}
        print(json.dumps(line | {name: scores[name] for name in wanted}), flush=True)


def measure_kills(config: TrainConfig, folder: Path, kills: int, seed: int) -> None:
    """Kill a training at random moments, go on until it ends, and compare its curve and weights
    with those of one that was left in peace."""
    moments = random.Random(seed)
    config = dataclasses.replace(config, size="nano", steps=120, save_every=5, log_every=1)
    calm = dataclasses.replace(config, out=str(folder / "calm"))
    killed = dataclasses.replace(config, out=str(folder / "killed"))
    for out in (calm.out, killed.out):
        shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    assert start_training(calm, folder).wait() == 0
    whole = time.perf_counter() - began
    done = 0
    while done < kills:
        process = start_training(killed, folder)
        time.sleep(moments.uniform(0.3, 0.9) * whole)
        if process.poll() is None:
            process.kill()
            process.wait()
            done += 1
            print(f"kill {done} with {len(read_log(killed.out))} steps logged", flush=True)
        else:
            assert process.returncode == 0
            shutil.rmtree(killed.out)
    assert start_training(killed, folder).wait() == 0
    curves = [
        [(line["step"], line["loss"], line["grad_norm"]) for line in read_log(out)]
        for out in (calm.out, killed.out)
    ]
    weights = [Path(out, "model.safetensors").read_bytes() for out in (calm.out, killed.out)]
    same = {"curve": curves[0] == curves[1], "weights": weights[0] == weights[1]}
    print(json.dumps({"kills": done, "steps": len(curves[0]), "same": same}))


def start_training(config: TrainConfig, folder: Path) -> subprocess.Popen[bytes]:
    """A training in a process of its own."""
    values = folder / "config.json"
    values.write_text(json.dumps(config.to_dict()))
    program = (
        "import json, sys; from gristmill.model.training.train import train; "
        "from gristmill.model.training.train_config import TrainConfig; "
        "train(TrainConfig.from_dict(json.load(open(sys.argv[1]))))"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(values)], stdout=subprocess.DEVNULL)


def main() -> None:
    """Parse, make the data, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("loader", "step", "paradigms", "kills"))
    parser.add_argument(
        "--folder", default=os.path.join(tempfile.gettempdir(), "gristmill-training")
    )
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--experts", nargs="*", default=["dense"])
    parser.add_argument(
        "--codec", default="codes", choices=("codes", "residual", "fsq", "two-colour")
    )
    # Positions of a row; a step has 4,160. Two codes to a place want 288, the demo has 104.
    parser.add_argument("--row-length", type=int, default=160)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--wide", action="store_true", help="the world of 12 colours and 8 shapes")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(options.folder, "wide" if options.wide else "small")
    folder.mkdir(parents=True, exist_ok=True)
    # Codes lie in the shards; other codecs of codes are used where they are asked for.
    kinds = {"codes", "patches", options.codec}
    config = make_data(folder, options.scenes, WIDE if options.wide else SMALL, kinds)
    # As the demo trains.
    demo = dataclasses.replace(config, rows_per_step=40, row_length=104)
    keep_freed_memory()
    if options.what == "loader":
        print(json.dumps(measure_loader(demo, folder), indent=1))
    elif options.what == "step":
        print(json.dumps(measure_step(demo), indent=1))
    elif options.what == "kills":
        measure_kills(config, folder, options.kills, options.seed)
    else:
        measure_paradigms(config, folder, options)


if __name__ == "__main__":
    main()
