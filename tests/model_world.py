"""Small shards, codecs and encoders of the world of shapes, made once for all tests of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shape_shards import build_shapes

from gristmill.model import load
from gristmill.model.codecs.patches import KMeansCodec, WhitenedPatches
from gristmill.model.codecs.registry import CodecTraining, save_codec, train_codec
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.data.planner import Planner, RowPlan
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.data.stream import LaneState
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.shapes.scenes import caption, draw, make_scene
from gristmill.model.training.filter_network import train_filter_network
from gristmill.model.training.train import Trainer, steps_of
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup


@dataclass(frozen=True)
class World:
    """Where things lie."""

    folder: Path
    # Shards with image codes of `codes`, and a plain copy without.
    shards: str
    plain: str
    codes: str
    two_books: str
    latents: str
    encoder: str

    def config(self, out: Path, paradigm: str = "ar", **changes: Any) -> TrainConfig:
        """A training of seconds."""
        kind = find_paradigm(paradigm)
        source = DataSource(
            url=self.shards,
            tasks={"draw": 0.5, "describe": 0.25, "answer": 0.25},
            questions="shapes",
        )
        config = TrainConfig(
            out=str(out), data=(source,), codec=self.codes if kind.codes else self.latents,
            encoder=self.encoder if "semantic" in kind.image_inputs else "",
            size="nano", paradigm=paradigm, steps=12, rows_per_step=4, row_length=160,
            text_vocabulary=300, warmup=2, log_every=1, save_every=6, precision="fp32",
        )  # fmt: skip
        return replace(config, **changes)


def losses_before_and_after(config: TrainConfig, steps: int = 3) -> tuple[float, float]:
    """The loss of the untrained and of the trained model on the same first batches.

    The curve itself compares batches of other rows, masks and noises: chance, in a short training.
    """
    setup = make_setup(config)
    batches = list(islice(steps_of(config, setup), steps))
    untrained = Trainer(replace(config, out=config.out + "-untrained"), setup, torch.device("cpu"))
    return _loss(untrained.model, config, batches), _loss(load(config.out).model, config, batches)


@torch.no_grad()
def _loss(model: torch.nn.Module, config: TrainConfig, batches: list[PackedBatch]) -> float:
    total = 0.0
    for batch in batches:
        found = model.eval()(batch)
        flow = float(found.flow) / (float(batch.latent_loss.sum()) or 1.0)
        total += float(found.text) / float(batch.weight.sum()) + config.flow_weight * flow
    return total / len(batches)


def make_world(folder: Path) -> World:
    """Draw, fit and write all of it; some seconds."""
    scenes = [make_scene(10**6 + i) for i in range(160)]
    pictures = [draw(scene, 60) for scene in scenes]
    views = torch.from_numpy(np.stack([resize_center_crop(picture, 24) for picture in pictures]))
    codes = KMeansCodec(sizes=(64,), patch=6)
    two = KMeansCodec(sizes=(16, 16), patch=6)
    latents = WhitenedPatches(components=8, patch=6)
    paths = {}
    for name, codec in (("codes", codes), ("two", two), ("latents", latents)):
        train_codec(codec, views, CodecTraining(seed=1))
        paths[name] = str(folder / f"{name}.safetensors")
        save_codec(codec, paths[name])
    texts = [caption(scene, i) for i, scene in enumerate(scenes)]
    train_filter_network(pictures, texts, str(folder / "clip"), steps=2, batch_size=32, threads=1)
    seeds = range(10**7, 10**7 + 200)
    shards = build_shapes(folder / "shards", seeds, side=60, codec=codes, samples_per_shard=64)
    plain = build_shapes(folder / "plain", seeds, side=60, samples_per_shard=64)
    return World(
        folder, str(shards), str(plain), paths["codes"], paths["two"], paths["latents"],
        f"local-dir:{folder / 'clip'}",
    )  # fmt: skip


def siglip(folder: Path, seed: int = 0) -> str:
    """A small SigLIP tower with random weights, as transformers writes it; the encoder's name."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.SiglipVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        patch_size=8, image_size=32,
    )  # fmt: skip
    transformers.SiglipVisionModel(config).save_pretrained(folder)
    return f"local-dir:{folder}"


def planned(planner: Planner, documents: int = 512) -> tuple[list[RowPlan], list[LaneState]]:
    """Rows of the first blocks of all lanes, and of the next, until they have so many documents;
    and the state of each lane after them."""
    rows: list[RowPlan] = []
    lanes = list(planner.start().lanes)
    while sum(map(len, rows)) < documents:
        for number, lane in enumerate(lanes):
            found, lanes[number] = planner.block(lane)
            rows += found
    return rows, lanes
