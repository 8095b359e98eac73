"""Scores on any shards: held-out loss, reconstruction, CLIP score and Fréchet distance."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from gristmill.errors import ConfigurationError, SampleError, ShardError
from gristmill.model.codecs.base import to_unit
from gristmill.model.codecs.registry import measure
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.data.shard_sources import DataSource, open_samples, spread_places
from gristmill.model.documents.batch import Document, pack
from gristmill.model.documents.document_writer import DocumentWriter
from gristmill.model.documents.segments import Content, Segment
from gristmill.model.documents.tasks import describing, drawing
from gristmill.model.evaluation.frechet import ClipTower, frechet_distance, require_torchmetrics
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.sampling.unified import Unified
from gristmill.pipelines.decode import Image

_ROWS = 32


def evaluate_shards(
    model: Unified,
    url: str,
    *,
    split: str = "val",
    count: int = 256,
    seed: int = 0,
    sampling: Sampling | None = None,
    clip: str = "",
    steps: int = 0,
) -> dict[str, object]:
    """Scores on at most `count` samples, evenly spread.

    "held_out_loss" is nats a token of text and of codes, squared error a channel of flows. With
    `clip` (as `load_encoder` names them), pictures drawn for the captions get a CLIP score
    (mean cosine, times 100) and a Fréchet distance of CLIP embeddings to the real pictures
    (Kynkäänniemi et al. 2023), which wants the extra `evaluate`.
    """
    if not url:
        raise ConfigurationError("the suite 'shards' needs --data SHARDS")
    samples = open_samples(DataSource(url=url, split=split))
    wanted = spread_places(samples, count)
    pictures, chosen = [], []
    for place in wanted:
        with contextlib.suppress(SampleError):
            pictures.append(samples.picture(*place))
            chosen.append(place)
    if not chosen:
        raise ShardError(f"no picture of {url} ({split}) can be read; look at its shards")
    captions = [samples.table(s)["caption"][r].as_py() or "" for s, r in chosen]
    codec = model.bundle.codec
    small = np.stack([resize_center_crop(picture, codec.side) for picture in pictures])
    scores: dict[str, object] = {
        "suite": "shards",
        "data": url,
        "split": split,
        "samples": len(chosen),
        "lost": len(wanted) - len(chosen),
        "held_out_loss": _losses(model, pictures, captions, seed),
        "reconstruction": measure(codec, to_unit(torch.from_numpy(small))),
        "steps": steps,
        "seed": seed,
    }
    if clip:
        drawn = model.generate(captions, dataclasses.replace(sampling or Sampling(), seed=seed))
        scores |= _clip_scores(clip, drawn, pictures, captions)
    return scores


@torch.no_grad()
def _losses(
    model: Unified, pictures: Sequence[Image], captions: Sequence[str], seed: int
) -> dict[str, float]:
    """Mean losses of drawing and of describing each sample."""
    writer, seen = model.bundle.writer, model.bundle.image_tokenizer.tokenize(pictures)
    device = next(model.model.parameters()).device
    sums: dict[str, list[float]] = {}
    for name, segments in (("draw", drawing), ("describe", describing)):
        documents = []
        for number, (caption, content) in enumerate(zip(captions, seen, strict=True)):
            rng = np.random.Generator(np.random.PCG64([seed, number]))
            documents.append(_document(writer, segments(caption), content, rng))
        for start in range(0, len(documents), _ROWS):
            part = documents[start : start + _ROWS]
            batch = pack([[d] for d in part], max(map(len, part))).to(device)
            batch = model.bundle.encode_pictures(batch)
            losses = model.model(batch)
            if len(losses.entropies):
                label = "text" if name == "describe" else "codes"
                labels = batch.labels.reshape(-1)[losses.labelled]
                first = min(model.bundle.vocabulary.code_starts, default=0)
                wanted = labels >= first if name == "draw" else labels >= 0
                sums.setdefault(label, []).extend(losses.entropies[wanted].tolist())
            if len(losses.flow_index):
                sums.setdefault("flow", []).extend(losses.flow_errors.tolist())
    return {name: round(float(np.mean(values)), 5) for name, values in sums.items() if values}


def _document(
    writer: DocumentWriter, segments: list[Segment], content: Content, rng: np.random.Generator
) -> Document:
    return writer.write(segments, [content], rng)


@torch.no_grad()
def _clip_scores(
    name: str, drawn: Sequence[Image], real: Sequence[Image], captions: Sequence[str]
) -> dict[str, float]:
    require_torchmetrics()
    tower = ClipTower.load(name)
    text = torch.nn.functional.normalize(tower.texts(captions), dim=-1)
    images = torch.nn.functional.normalize(tower(tower.pixels(drawn)), dim=-1)
    return {
        "clip_score": round(100 * float((images * text).sum(dim=-1).mean()), 3),
        "clip_fid": round(frechet_distance(real, drawn, tower), 4),
    }
