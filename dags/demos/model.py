"""The demo's second half: train a small model on what was kept, and let it draw and describe."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from gristmill.dags.demos.announce import Steps
from gristmill.dags.demos.scale import Scale
from gristmill.dags.reports.model import HELD_OUT_SAID
from gristmill.pipelines.storage import Folder

if TYPE_CHECKING:
    from gristmill.model.sampling.decoding import Sampling
    from gristmill.model.sampling.unified import Unified

# Scenes that the report shows, drawn and described.
_SHOWN = 24
_ENLARGED = 120


class _Shown(TypedDict):
    """A picture as `showcase.json` holds it: with its words, and whether they belong together."""

    words: str
    src: str
    right: bool


def train_demo_model(
    out: str, codec: str, scale: Scale, *, seed: int, says: Steps
) -> dict[str, object]:
    """Train on the shards of the run in `out`, evaluate, and leave `out/evaluation.json` and
    `out/model/showcase.json`. Four (colour, shape) pairs are held out of training. What was trained
    before is trained no more."""
    from gristmill.model import load
    from gristmill.model.data.shard_sources import DataSource
    from gristmill.model.sampling.decoding import Sampling
    from gristmill.model.shapes.scenes import SMALL
    from gristmill.model.shapes.suite import evaluate_shapes
    from gristmill.model.training.train import train
    from gristmill.model.training.train_config import TrainConfig

    folder = os.path.join(out, "model")
    source = DataSource(
        url=out,
        where=SMALL.without_held_out,
        tasks=scale.tasks,
        questions="shapes",
        name="little-web",
    )
    config = TrainConfig(
        out=folder, data=(source,), codec=codec, size=scale.size, paradigm="ar", steps=scale.steps,
        rows_per_step=scale.rows_per_step, row_length=scale.row_length, rate=scale.rate,
        optimiser="muon", schedule="cosine", warmup=scale.warmup, average=scale.average, seed=seed,
        sample_every=-(-scale.steps // 2),
    )  # fmt: skip
    says.begin(f"training a {scale.size} model on what was kept, {scale.steps:,} steps")
    train(config)
    says.begin(f"letting it draw and describe {scale.judged} scenes that it has not seen")
    model = load(folder)
    sampling = Sampling(temperature=0.4, guidance=1.35)
    scores = evaluate_shapes(
        model, count=scale.judged, seed=seed, sampling=sampling, steps=scale.steps,
        most=scale.objects,
    )  # fmt: skip
    Folder(out).write_json("evaluation.json", scores)
    Folder(folder).write_json("showcase.json", _showcase(model, sampling, seed, scale.objects))
    says.say(
        f"pictures right {scores['picture_exact']:.0%} (for other prompts "
        f"{scores['picture_exact_shuffled']:.0%}), captions {scores['caption_exact']:.0%}, answers "
        f"{scores['answer_exact_without_existence']:.0%} (existence aside)"
    )
    held_out = scores["held_out"]
    says.say(
        f"with held-out pairs: pictures {held_out['picture_exact']:.0%}, captions "
        f"{held_out['caption_exact']:.0%}"
    )
    says.say(HELD_OUT_SAID)
    return scores


def _showcase(
    model: Unified, sampling: Sampling, seed: int, objects: int
) -> dict[str, list[_Shown]]:
    """Pictures drawn for prompts, and captions of pictures, each with whether it is right."""
    from gristmill.model.shapes.parser import agrees, read_caption, read_pictures, shows
    from gristmill.model.shapes.scenes import captions, draw
    from gristmill.model.shapes.suite import suite_scenes

    scenes, _ = suite_scenes(_SHOWN, seed + 500, objects)
    prompts = [captions(scene)[0] for scene in scenes]
    drawn = model.generate(prompts, sampling)
    read = read_pictures(np.stack(drawn))
    pictures = [draw(scene, _ENLARGED) for scene in scenes]
    said = model.describe(pictures)
    return {
        "drawn": [
            {"words": prompt, "src": _data_uri(picture), "right": shows(things, scene)}
            for prompt, picture, things, scene in zip(prompts, drawn, read, scenes, strict=True)
        ],
        "described": [
            {
                "words": text,
                "src": _data_uri(picture),
                "right": agrees(read_caption(text), scene.things),
            }
            for text, picture, scene in zip(said, pictures, scenes, strict=True)
        ],
    }


def _data_uri(picture: NDArray[np.uint8]) -> str:
    """PNG, enlarged without smoothing: a picture of 24 pixels is what it is."""
    size = (_ENLARGED, _ENLARGED)
    large = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    data = cv2.imencode(".png", cv2.cvtColor(large, cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(data).decode()
