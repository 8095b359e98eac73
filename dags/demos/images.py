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

from gristmill.dags.demos.announce import Steps, counting, duration
from gristmill.dags.demos.model import train_demo_model
from gristmill.dags.demos.scale import FULL, Scale
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
from gristmill.errors import ConfigurationError
from gristmill.pipelines.child import Child
from gristmill.pipelines.out_folder import require_writable
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.storage import Folder

# Trusted pairs that the threshold may cost.
LOST = 0.002
# Written beside the filter network: both come from the trusted slice.
CODEC = "codec.safetensors"


def run_demo(
    out: str,
    scale: Scale,
    *,
    seed: int,
    runner: str,
    plain: bool,
    command: str,
    console: Console | None = None,
) -> DemoSummary:
    """Do the whole job in `out`; the same command goes on where it stopped.

    `summary.json` gains "truth" and "wrong_caption_auc"; with steps of training a model is trained
    on the shards, and `evaluation.json` says how well it draws and describes.
    """
    require_run_folder(out)
    require_writable(out, what="run")
    start = time.perf_counter()
    console = console or Console()
    says = Steps(console, scale.seconds if scale.steps else scale.seconds[:3])
    found = draw_web(os.path.join(out, "web"), scale, seed, says)
    network = os.path.join(out, "filter-network")
    says.begin(
        f"training a filter network on {scale.trusted:,} trusted pairs, {scale.filter_steps} steps"
    )
    threshold = filter_network(network, seed, says, scale)
    codec = os.path.join(network, CODEC)
    dag = demo_dag(found, network, threshold, codec, scale)
    where = "in this process" if runner == "local" else "on Ray"
    says.begin(f"curating: download, scores, duplicates, rules, tokens, shards, {where}")
    with WebServer(found), make_progress(console, plain or None, log=Folder(out)) as progress:
        curated = execute(dag, out, RunOptions(runner=runner), progress)
    summary = cast(DemoSummary, {**curated, **judge(found, out)})
    planted = [facts for fault, facts in summary["truth"].items() if "apart" not in fault]
    says.say(
        f"{summary['kept']:,} rows kept; of {sum(f['planted'] for f in planted):,} planted faults "
        f"{sum(f['caught'] for f in planted):,} were caught, with "
        f"{sum(f['false_alarms'] for f in planted):,} false alarms"
    )
    if scale.steps:
        summary["model"] = train_demo_model(out, codec, scale, seed=seed, says=says)
    summary["seconds"] = round(time.perf_counter() - start, 2)
    write_sealed(Folder(out), "summary.json", dict(summary))
    write_report(out, command=command, console=console)
    says.say(f"done in {duration(summary['seconds'])}")
    return summary


def demo_dag(
    found: Web, network: str, threshold: float, codec: str = "", scale: Scale = FULL
) -> Dag:
    """The image-text recipe with the demo's model, threshold, server and image codec."""
    return apply_settings(
        image_text(path=found.urls, name="little-web"),
        [
            f"download.allow_hosts={HOST}:{found.port},{HOST}:{CLOSED_PORT}",
            f"download.timeout_s={scale.timeout_s}",
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
            f"part_rows={scale.part_rows}",
        ],
    )


def draw_web(folder: str, scale: Scale, seed: int, says: Steps) -> Web:
    """Draw the web, once; a later run finds it under the same addresses.

    Raises `ConfigurationError` for a folder that holds another demo's.
    """
    says.begin(f"drawing a little web of {scale.scenes:,} clean pictures and its faults")
    facts_path = os.path.join(folder, "web.json")
    wanted = {"scenes": scale.scenes, "seed": seed, "objects": scale.objects}
    if os.path.exists(facts_path):
        with open(facts_path, encoding="utf-8") as file:
            facts = json.load(file)
        # Webs drawn before there were two scales have up to two objects in a scene.
        there = {"objects": FULL.objects, **facts}
        differing = [f"{name} {there[name]}, not {wanted[name]}" for name in wanted
                     if there[name] != wanted[name]]  # fmt: skip
        if differing:
            raise ConfigurationError(
                f"{folder} holds another demo ({'; '.join(differing)}): go on with that "
                "(gristmill demo --full, --scenes, --seed), or give another --out"
            )
        says.found("drawn before")
        return Web(folder, facts["port"])
    found = build_web(
        folder, scenes=scale.scenes, seed=seed, port=free_port(), objects=scale.objects
    )
    with open(facts_path, "w", encoding="utf-8") as file:
        json.dump({**wanted, "port": found.port}, file)
    return found


def free_port() -> int:
    """A port on loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def filter_network(folder: str, seed: int, says: Steps, scale: Scale) -> float:
    """Train on trusted pairs, once, and find the score below which few trusted pairs lie."""
    facts_path = os.path.join(folder, "threshold.json")
    if os.path.exists(facts_path):
        with open(facts_path, encoding="utf-8") as file:
            facts = json.load(file)
        if facts["seed"] == seed:
            says.found("trained before")
            return float(facts["threshold"])
    # In a process of its own, whose memory is free again when curation starts.
    child = Child(functools.partial(FilterTrainer, folder, seed, scale))
    trained = child.call("train", deadline_s=3600.0)
    child.close()
    says.say(
        f"loss {trained['first_loss']:.2f} -> {trained['last_loss']:.2f} in "
        f"{trained['seconds']:.0f} s; {1 - LOST:.1%} of held-out trusted pairs score above "
        f"{trained['threshold']}; image codec with a ceiling of {trained['ceiling']} dB"
    )
    with open(facts_path, "w", encoding="utf-8") as file:
        json.dump({"seed": seed, "threshold": trained["threshold"]}, file)
    return float(trained["threshold"])


class FilterTrainer:
    """Draws the trusted slice and trains on it."""

    def __init__(self, folder: str, seed: int, scale: Scale) -> None:
        self.folder, self.seed, self.scale = folder, seed, scale

    def train(self) -> dict[str, float]:
        """Losses, seconds, and the threshold; an image codec is left beside the network."""
        import pyarrow as pa
        import torch

        from gristmill.model.codecs.patches import KMeansCodec
        from gristmill.model.codecs.registry import save_codec, train_codec
        from gristmill.model.data.center_crop import resize_center_crop
        from gristmill.model.shapes.scenes import caption, make_scene
        from gristmill.model.training.filter_network import train_filter_network
        from gristmill.pipelines.images.clip_score import ClipScore

        scale = self.scale
        first = 5 * 10**9 + 10**5 * self.seed
        seeds = range(first, first + scale.trusted + scale.held_out)
        scenes = [make_scene(seed, scale.objects) for seed in seeds]
        # As the little web shows them, or the threshold would be that of better pictures.
        pictures = [as_served(scene, i) for i, scene in enumerate(scenes)]
        texts = [caption(scene, i) for i, scene in enumerate(scenes)]
        tell = counting("steps", scale.filter_steps)
        training = train_filter_network(
            pictures[: scale.trusted], texts[: scale.trusted], self.folder,
            steps=scale.filter_steps, seed=self.seed, on_step=lambda step, _: tell(step + 1),
        )  # fmt: skip
        codec = KMeansCodec(sizes=(scale.codes,))
        views = np.stack([resize_center_crop(picture, codec.side) for picture in pictures])
        train_codec(codec, torch.from_numpy(views))
        save_codec(codec, os.path.join(self.folder, CODEC))
        stage = ClipScore(model=f"local-dir:{self.folder}", embeddings=False)
        held_out = stage.score(
            pa.table({"caption": texts[scale.trusted :]}), pictures[scale.trusted :]
        )
        scores = held_out["clip_score"].to_numpy()
        return {
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            "seconds": training.seconds,
            "threshold": round(float(np.quantile(scores, LOST)), 4),
            "ceiling": codec.ceiling["psnr"],
        }
