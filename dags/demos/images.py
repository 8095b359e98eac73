"""The demo: draw a little web, train a filter network on a trusted slice, curate, judge, report."""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from typing import cast

import numpy as np
from rich.console import Console

from gristmill.dags.demos.model import train_demo_model
from gristmill.dags.demos.truth import DemoSummary, judge
from gristmill.dags.demos.web import build_web
from gristmill.dags.demos.web_pages import as_served
from gristmill.dags.demos.web_server import CLOSED_PORT, HOST, Web, WebServer
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.run_folder import require_run_folder
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.image_text import image_text
from gristmill.dags.session import write_report
from gristmill.dags.settings import apply_settings
from gristmill.pipelines.child import Child
from gristmill.pipelines.out_folder import require_writable
from gristmill.pipelines.storage import Folder

TRUSTED = 1800
HELD_OUT = 1000
STEPS = 150
# Trusted pairs that the threshold may cost.
LOST = 0.002
# Written beside the filter network: both come from the trusted slice.
CODEC = "codec.safetensors"


def run_demo(
    out: str, *, scenes: int, seed: int, runner: str, plain: bool, command: str, steps: int
) -> DemoSummary:
    """Do the whole job in `out`; the same command goes on where it stopped.

    `summary.json` gains "truth" and "wrong_caption_auc"; with `steps` a model is trained on the
    shards, and `evaluation.json` says how well it draws and describes.
    """
    require_run_folder(out)
    require_writable(out, what="run")
    start = time.perf_counter()
    console = Console()
    found = _web(os.path.join(out, "web"), scenes, seed, console)
    network = os.path.join(out, "filter-network")
    threshold = filter_network(network, seed, console)
    codec = os.path.join(network, CODEC)
    dag = demo_dag(found, network, threshold, codec)
    with WebServer(found), make_progress(console, plain or None, log=Folder(out)) as progress:
        curated = execute(dag, out, RunOptions(runner=runner), progress)
    summary = cast(DemoSummary, {**curated, **judge(found, out)})
    if steps:
        summary["model"] = train_demo_model(out, codec, steps=steps, seed=seed, console=console)
    summary["seconds"] = round(time.perf_counter() - start, 2)
    Folder(out).write_json("summary.json", summary)
    write_report(out, command=command, console=console)
    return summary


def demo_dag(found: Web, network: str, threshold: float, codec: str = "") -> Dag:
    """The image-text recipe with the demo's model, threshold, server and image codec."""
    return apply_settings(
        image_text(path=found.urls, name="little-web"),
        [
            f"download.allow_hosts={HOST}:{found.port},{HOST}:{CLOSED_PORT}",
            "download.timeout_s=6",
            "download.max_bytes=20000000",
            "download.retries=1",
            f"clip.model=local-dir:{network}",
            f"keep.rules.weak caption match=clip_score < {threshold}",
            "shards.title=Shapes from a little web",
            "shards.samples_per_shard=500",
            "shards.val_share=0.05",
            f"tokens.images={codec}",
            # Pictures of flat shapes are more alike than photographs; true copies lie below 0.16.
            "duplicates.thumbnail_tolerance=0.2",
            "part_rows=600",
        ],
    )


def _web(folder: str, scenes: int, seed: int, console: Console) -> Web:
    """Draw the web, once; a later run finds it under the same addresses."""
    facts_path = os.path.join(folder, "web.json")
    if os.path.exists(facts_path):
        with open(facts_path, encoding="utf-8") as file:
            facts = json.load(file)
        if facts["scenes"] == scenes and facts["seed"] == seed:
            return Web(folder, facts["port"])
    console.print(f"drawing a little web of {scenes:,} clean pictures and its faults")
    found = build_web(folder, scenes=scenes, seed=seed, port=free_port())
    with open(facts_path, "w", encoding="utf-8") as file:
        json.dump({"scenes": scenes, "seed": seed, "port": found.port}, file)
    return found


def free_port() -> int:
    """A port on loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def filter_network(folder: str, seed: int, console: Console) -> float:
    """Train on trusted pairs, once, and find the score below which few trusted pairs lie."""
    facts_path = os.path.join(folder, "threshold.json")
    if os.path.exists(facts_path):
        with open(facts_path, encoding="utf-8") as file:
            facts = json.load(file)
        if facts["seed"] == seed:
            return float(facts["threshold"])
    console.print(f"training a filter network on {TRUSTED:,} trusted pairs, {STEPS} steps")
    # In a process of its own, whose memory is free again when curation starts.
    child = Child(functools.partial(FilterTrainer, folder, seed))
    facts = child.call("train", deadline_s=3600.0)
    child.close()
    console.print(
        f"loss {facts['first_loss']:.2f} -> {facts['last_loss']:.2f} in {facts['seconds']:.0f} s; "
        f"{1 - LOST:.1%} of held-out trusted pairs score above {facts['threshold']}; image codec "
        f"with a ceiling of {facts['ceiling']} dB"
    )
    with open(facts_path, "w", encoding="utf-8") as file:
        json.dump({"seed": seed, "threshold": facts["threshold"]}, file)
    return float(facts["threshold"])


class FilterTrainer:
    """Draws the trusted slice and trains on it."""

    def __init__(self, folder: str, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def train(self) -> dict[str, float]:
        """Losses, seconds, and the threshold; an image codec is left beside the network."""
        import pyarrow as pa
        import torch

        from gristmill.model.center_crop import resize_center_crop
        from gristmill.model.codecs.patches import KMeansCodec
        from gristmill.model.codecs.registry import save_codec, train_codec
        from gristmill.model.filter_network import train_filter_network
        from gristmill.model.shapes.scenes import caption, make_scene
        from gristmill.pipelines.images.clip_score import ClipScore

        first = 5 * 10**9 + 10**5 * self.seed
        seeds = range(first, first + TRUSTED + HELD_OUT)
        # As the little web shows them, or the threshold would be that of better pictures.
        pictures = [as_served(seed, i) for i, seed in enumerate(seeds)]
        texts = [caption(make_scene(seed), i) for i, seed in enumerate(seeds)]
        training = train_filter_network(
            pictures[:TRUSTED], texts[:TRUSTED], self.folder, steps=STEPS, seed=self.seed
        )
        codec = KMeansCodec()
        views = np.stack([resize_center_crop(picture, codec.side) for picture in pictures])
        train_codec(codec, torch.from_numpy(views))
        save_codec(codec, os.path.join(self.folder, CODEC))
        stage = ClipScore(model=f"local-dir:{self.folder}", embeddings=False)
        held_out = stage.score(pa.table({"caption": texts[TRUSTED:]}), pictures[TRUSTED:])
        scores = held_out["clip_score"].to_numpy()
        return {
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            "seconds": training.seconds,
            "threshold": round(float(np.quantile(scores, LOST)), 4),
            "ceiling": codec.ceiling["psnr"],
        }
