"""CLIP scores end to end beside the bare forward of the same network on the same cores.

    python benchmarks/scores.py [--rows 640] [--model ViT-B-32] [--runner local|ray] [--pairs 3]
    python benchmarks/scores.py --stages [--rows 8000]   # the scores that need no network

Draws photo-like JPEGs of 512x384 with captions in files, and gives a network of open_clip random
weights: what it says does not matter, what it costs does. Ours is a whole run, `image-text` down to
the scores: source, download (read, decode, resize, encode) and CLIP. Timed are the bare forward, in
batches of the stage's size over pictures and texts made ready before, on all cores; and ours, from
the first row that enters download to the last part of the scores committed, both as files that the
run wrote. Also: the whole run with its start, and the seconds of a worker within the stage.

The other scores are timed beside what they do and nothing else: pictures decoded and described by
as many bare processes as there are cores, each with its share in memory, without their start; ours
is a second run over pictures that a first one stored, with its start and all that it commits.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Score

BATCH = 64

BARE = """
import sys, time, torch, open_clip, json
name, weights, count, batch, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)
model, _, _ = open_clip.create_model_and_transforms(name, pretrained=weights)
model.eval()
size = model.visual.image_size
pixels = torch.randn(batch, 3, *(size if isinstance(size, tuple) else (size, size)))
tokens = open_clip.get_tokenizer(name)(["a photograph of something in a place"] * batch)
with torch.inference_mode():
    model.encode_image(pixels, normalize=True)
    start = time.perf_counter()
    for _ in range(count // batch):
        model.encode_image(pixels, normalize=True)
        model.encode_text(tokens, normalize=True)
print(count // batch * batch / (time.perf_counter() - start))
"""


def draw(folder: Path, rows: int) -> None:
    """Smooth fields with grain, and captions."""
    folder.mkdir()
    for i in range(rows):
        rng = np.random.default_rng(i)
        base = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (512, 384))
        grain = rng.normal(0, 4, base.shape)
        picture = np.clip(base + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:06d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
        (folder / f"{i:06d}.txt").write_text(f"a photograph of something, number {i}")


def make_weights(model: str, path: str) -> None:
    """Random weights of a network that open_clip knows."""
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), path)


def bare(model: str, weights: str, rows: int, threads: int) -> float:
    """Rows a second of the forward alone, in a process of its own."""
    words = [sys.executable, "-W", "ignore", "-c", BARE, model, weights, str(min(rows, 256))]
    done = subprocess.run(
        [*words, str(BATCH), str(threads)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def ours(dag: Dag, folder: Path, runner: str) -> tuple[float, float, float]:
    """Seconds from the first row to the last commit, of the whole command, and within the stage."""
    out, recipe = folder / "run", folder / "dag.yaml"
    shutil.rmtree(out, ignore_errors=True)
    recipe.write_text(dump_dag(dag))
    command = [sys.executable, "-m", "gristmill", "run", str(recipe), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--runner", runner, "--plain"], check=True, capture_output=True, timeout=7200
    )
    whole = time.perf_counter() - start
    # A blob file is begun when the first row of its part is worked on.
    begun = min(os.stat(path).st_ctime for path in glob.glob(f"{out}/nodes/source-*/parts.json"))
    records = glob.glob(f"{out}/nodes/clip-*/records.jsonl")
    lines = [line for path in records for line in Path(path).read_text().splitlines()]
    inside = sum(json.loads(line.partition(" ")[2])["seconds"] for line in lines)
    files = glob.glob(f"{out}/nodes/clip-*/*.npy")
    ended = max(os.stat(path).st_mtime for path in files)
    return ended - begun, whole, inside


STAGES: dict[str, Score] = {
    "image_facts": ImageFacts(),
    "hash": PerceptualHash(),
    "caption_facts": CaptionFacts(),
}


def describe(name: str, files: list[str]) -> float:
    """Seconds in which a stage describes pictures that are in memory, in blocks of 256."""
    stage = STAGES[name]
    stage.prepare()
    media = stage.media
    data = [Path(file).read_bytes() for file in files] if media else []
    captions = [f"a photograph of something, number {i}" for i in range(len(files))]
    start = time.perf_counter()
    for at in range(0, len(files), 256):
        images = [media.decode(one) for one in data[at : at + 256]] if media else None
        some = captions[at : at + 256]
        sides = pa.array([256] * len(some), pa.int32())
        stage.score(pa.table({"caption": some, "width": sides, "height": sides}), images)
    return time.perf_counter() - start


def other_scores(folder: Path, rows: int, pairs: int, cores: int) -> None:
    """Rows a second of each score that needs no weights, bare and in a run."""
    files = sorted(glob.glob(f"{folder}/photos/*.jpg"))
    nodes = {
        "source": Node(Source(path=str(folder / "photos"))),
        "download": Node(Download(reencode="never"), ("source",)),
    }
    out = folder / "run"
    run(Dag("scores", nodes), folder, out)
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        for name, stage in STAGES.items():
            shares = []
            for pair in range(pairs):
                parts = [files[i::cores] for i in range(cores)]
                bare_s = max(pool.map(describe, [name] * cores, parts))
                # Another field each time, so that it is done again.
                node = {f"{name}_{pair}": Node(stage, ("download",))}
                our_s = run(Dag("scores", {**nodes, **node}), folder, out)
                shares.append(bare_s / our_s)
                print(
                    f"  {name}: bare {rows / bare_s:,.0f}/s, ours {rows / our_s:,.0f}/s, "
                    f"{shares[-1]:.2f} of it ({bare_s:.1f} s and {our_s:.1f} s)",
                    flush=True,
                )


def run(dag: Dag, folder: Path, out: Path) -> float:
    """Seconds of a run."""
    recipe = folder / "dag.yaml"
    recipe.write_text(dump_dag(dag))
    command = [sys.executable, "-m", "gristmill", "run", str(recipe), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run([*command, "--runner", "local", "--plain"], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--runner", default="local")
    parser.add_argument("--part-rows", type=int, default=0)
    arguments = parser.parse_args()
    folder, cores = Path(tempfile.mkdtemp(prefix="bench-scores-")), os.cpu_count() or 1
    weights = str(folder / "weights.pt")
    draw(folder / "photos", arguments.rows)
    if arguments.stages:
        other_scores(folder, arguments.rows, arguments.pairs, cores)
        shutil.rmtree(folder)
        return
    make_weights(arguments.model, weights)
    clip = ClipScore(model=arguments.model, pretrained=weights, batch_size=BATCH)
    nodes = {
        "source": Node(Source(path=str(folder / "photos"))),
        "download": Node(Download(image_size=256), ("source",)),
        "clip": Node(clip, ("download",)),
    }
    dag = Dag("scores", nodes, part_rows=arguments.part_rows)
    print(f"{arguments.model}, {arguments.rows} rows, {cores} cores, {arguments.runner}")
    rates, shares = [], []
    for _ in range(arguments.pairs):
        one = bare(arguments.model, weights, arguments.rows, cores)
        first_to_last, whole, inside = ours(dag, folder, arguments.runner)
        rate = arguments.rows / first_to_last
        rates.append(rate)
        shares.append(rate / one)
        print(
            f"  bare {one:.2f}/s   ours {rate:.2f}/s   {shares[-1]:.2f} of it   (whole command "
            f"{whole:.1f} s, first row to last {first_to_last:.1f} s, workers in the stage "
            f"{inside:.1f} s)",
            flush=True,
        )
    print(
        f"median {statistics.median(rates):.2f}/s, {statistics.median(shares):.2f} of the bare "
        f"forward (from {min(shares):.2f} to {max(shares):.2f})"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
