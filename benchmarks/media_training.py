"""From videos, documents and edit pairs through their recipes to shards, to a tiny model trained on
them, to its score against a control.

    python benchmarks/media_training.py data motion|edits|stories --folder DIR     # to shards, once
    python benchmarks/media_training.py train motion|edits|stories --folder DIR --steps 1200
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from gristmill.dags.demos.announce import Steps
from gristmill.dags.demos.images import CODEC, filter_network
from gristmill.dags.demos.scale import FULL
from gristmill.dags.demos.video import moving, write_video
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.edit import edit
from gristmill.dags.recipes.interleaved import interleaved
from gristmill.dags.recipes.video_text import video_text
from gristmill.dags.settings import apply_settings
from gristmill.model import load
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.shapes.changes import make_edit, make_story
from gristmill.model.shapes.changes_suite import SUITES
from gristmill.model.shapes.scenes import captions, draw
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.pipelines.decode import encode_jpeg

_SIDE = 144
_FIRST = 10**7
# Samples, what the model is asked, rows of a step and their length: what one or two documents fill.
KINDS: dict[str, tuple[int, dict[str, float], tuple[int, int]]] = {
    "edits": (16_000, {"edit": 1.0}, (26, 176)),
    "motion": (16_000, {"continue": 0.8, "draw": 0.1, "describe": 0.1}, (40, 104)),
    "stories": (4_000, {"interleaved": 1.0}, (26, 176)),
}


def write_motion(folder: Path, count: int) -> str:
    """Videos with captions, as files and a CSV's worth of sidecars."""
    for i in range(count):
        frames, text = moving(_FIRST + i, 2.0, _SIDE)
        write_video(frames, str(folder / f"{i:06d}.mp4"))
        (folder / f"{i:06d}.txt").write_text(text)
    return str(folder)


def write_edits(folder: Path, count: int) -> str:
    """Pairs as InstructPix2Pix has them."""
    rows = []
    for i in range(count):
        change = make_edit(_FIRST + i)
        rows.append(
            {
                "original_prompt": captions(change.before)[0],
                "original_image": {
                    "bytes": encode_jpeg(draw(change.before, _SIDE), 92),
                    "path": None,
                },
                "edit_prompt": change.text,
                "edited_prompt": captions(change.after)[0],
                "edited_image": {"bytes": encode_jpeg(draw(change.after, _SIDE), 92), "path": None},
            }
        )
    path = str(folder / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    return path


def write_stories(folder: Path, count: int) -> str:
    """Documents in the form of OBELICS, pictures beside them."""
    lines = []
    for i in range(count):
        story = make_story(_FIRST + i)
        texts: list[str | None] = []
        images: list[str | None] = []
        for number, (text, scene) in enumerate(zip(story.texts, story.scenes, strict=True)):
            name = f"{i:06d}-{number}.jpg"
            (folder / name).write_bytes(encode_jpeg(draw(scene, _SIDE), 92))
            texts += [text, None]
            images += [None, name]
        lines.append(json.dumps({"texts": texts, "images": images}))
    path = folder / "stories.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def dag_of(kind: str, source: str, network: str) -> Dag:
    """The recipe with the filter network and the codec; rules that guess at the real world are
    left out, as nothing is planted here."""
    common = [f"clip.model=local-dir:{network}", f"tokens.images={network}/{CODEC}"]
    if kind == "motion":
        dag = video_text(path=source)
        more = ["tokens.frames=2", "keep.rules.weak caption match=", "part_rows=400",
                "keep.rules.not steady=", "keep.rules.static="]  # fmt: skip
    elif kind == "edits":
        dag, more = edit(path=source), ["keep.rules.edit goes elsewhere=", "part_rows=1000"]
    else:
        dag = interleaved(path=source)
        more = ["keep_images.rules.fits no text=", "keep_images.rules.in many documents=",
                "keep.rules.too little text=", "part_rows=800"]  # fmt: skip
    return apply_settings(dag, [*common, *more])


def make_data(folder: Path, kinds: list[str]) -> None:
    """Runs of the recipes."""
    console = Console()
    network = str(folder / "filter-network")
    filter_network(network, 0, Steps(console, ()), FULL)
    writers: dict[str, Callable[[Path, int], str]] = {
        "motion": write_motion, "edits": write_edits, "stories": write_stories,
    }  # fmt: skip
    for kind in kinds:
        count, _, _ = KINDS[kind]
        raw = folder / f"{kind}-raw"
        raw.mkdir(parents=True, exist_ok=True)
        source = raw / "source"
        if not source.exists():
            source.write_text(writers[kind](raw, count))
        start = time.perf_counter()
        out = str(folder / kind)
        with make_progress(console, True) as progress:
            summary = execute(
                dag_of(kind, source.read_text(), network), out, RunOptions(), progress
            )
        seconds = time.perf_counter() - start
        print(json.dumps({"kind": kind, "rows": summary["rows_in"], "kept": summary["kept"],
                          "seconds": round(seconds)}), flush=True)  # fmt: skip


def train_and_judge(kind: str, folder: Path, steps: int, seed: int, paradigm: str) -> None:
    """One model, one line of figures."""
    _, tasks, (rows, length) = KINDS[kind]
    out = str(folder / f"{kind}-{paradigm}-{steps}-{seed}")
    source = DataSource(url=str(folder / kind), tasks=tasks, frames=2, name=kind)
    config = TrainConfig(
        out=out, data=(source,), codec=str(folder / "filter-network" / CODEC), size="tiny",
        paradigm=paradigm, steps=steps, rows_per_step=rows, row_length=length, rate=1e-2,
        optimiser="muon", schedule="cosine", warmup=50, seed=seed,
    )  # fmt: skip
    start = time.perf_counter()
    train(config)
    model = load(out)
    sampling = Sampling(temperature=0.4)
    scores = SUITES[kind](model, count=200, seed=seed, sampling=sampling)
    line = {"paradigm": paradigm, "steps": steps, "seconds": round(time.perf_counter() - start)}
    print(json.dumps({**scores, **line}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["data", "train"])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/gristmill-media"))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paradigm", default="ar")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    if options.what == "data":
        make_data(options.folder, options.kinds)
        return
    for kind in options.kinds:
        train_and_judge(kind, options.folder, options.steps, options.seed, options.paradigm)


if __name__ == "__main__":
    main()
