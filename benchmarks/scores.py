"""CLIP scores end to end beside the bare forward of the same network on the same cores.

    python benchmarks/scores.py [--rows 640] [--model ViT-B-32] [--runner local|ray] [--pairs 3]

Draws photo-like JPEGs of 512x384 with captions in files, and gives a network of open_clip random
weights: what it says does not matter, what it costs does. Ours is a whole run, `image-text` down to
the scores: source, download (read, decode, resize, encode) and CLIP. Timed are the bare forward, in
batches of the stage's size over pictures and texts made ready before, on all cores; and ours, from
the first row that enters download to the last part of the scores committed, both as files that the
run wrote. Also: the whole run with its start, and the seconds of a worker within the stage.
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
from pathlib import Path

import cv2
import numpy as np

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.sources.source import Source

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--runner", default="local")
    parser.add_argument("--part-rows", type=int, default=0)
    arguments = parser.parse_args()
    folder, cores = Path(tempfile.mkdtemp(prefix="bench-scores-")), os.cpu_count() or 1
    weights = str(folder / "weights.pt")
    draw(folder / "photos", arguments.rows)
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
