"""The shapes suite: what a model draws and says, judged against scenes whose content is known.

A picture is right when the parser reads exactly the objects of the prompt, in the relation said;
a caption when it names exactly the objects, and states no false relation; an answer when it is
word for word the true one. Control: the pictures judged against other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, to_bytes, to_unit
from gristmill.model.codecs.registry import never_met
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.sampling.unified import Unified
from gristmill.model.shapes.parser import SIDE, agrees, read_caption, read_pictures, shows
from gristmill.model.shapes.questions import is_existence, questions
from gristmill.model.shapes.scenes import (
    MOST,
    SMALL,
    Scene,
    Thing,
    World,
    captions,
    draw,
    make_scene,
)
from gristmill.pipelines.decode import Image

_FIRST = 9 * 10**9
_DRAWN_AT = 240


def evaluate_shapes(
    model: Unified,
    *,
    count: int = 256,
    seed: int = 0,
    sampling: Sampling | None = None,
    steps: int = 0,
    most: int = MOST,
    world: World = SMALL,
) -> dict[str, Any]:
    """The suite's scores, each a share of `count` scenes of at most `most` objects; as
    `evaluation.json` holds them.

    Raises `ConfigurationError` for a model of another side than the parser reads.
    """
    if model.bundle.codec.side != SIDE:
        raise ConfigurationError(
            f"the shapes suite reads pictures of {SIDE} px, the model draws "
            f"{model.bundle.codec.side}"
        )
    sampling = replace(sampling or Sampling(), seed=seed)
    seen, held_out = suite_scenes(count, seed, most, world)
    drawn = _drawn(model, seen, sampling)
    pictures = [draw(scene, _DRAWN_AT) for scene in seen]
    answers = _answers(model, seen, pictures, world)
    others = _drawn(model, held_out, sampling)
    held_pictures = [draw(scene, _DRAWN_AT) for scene in held_out]
    read = read_pictures(np.stack(drawn), world)
    return {
        "suite": "shapes",
        "picture_exact": _share([shows(r, s) for r, s in zip(read, seen, strict=True)]),
        "picture_exact_shuffled": _share(
            [shows(r, s) for r, s in zip(read, [*seen[1:], seen[0]], strict=True)]
        ),
        "picture_invalid": _share([r is None for r in read]),
        "picture_attributes": _attributes(read, seen),
        "caption_exact": _share(_captions_right(model, seen, pictures)),
        "answer_exact": _share([right for _, right in answers]),
        "answer_exact_without_existence": _share(
            [right for question, right in answers if not is_existence(question)]
        ),
        "cycle_exact": _cycle(model, drawn, seen),
        "held_out": {
            "picture_exact": _share(
                [
                    shows(r, s)
                    for r, s in zip(read_pictures(np.stack(others), world), held_out, strict=True)
                ]
            ),
            "caption_exact": _share(_captions_right(model, held_out, held_pictures)),
            "codes_never_met": codes_never_met(
                model.bundle.codec, suite_scenes(4 * count, seed, most, world)[0], held_out
            ),
        },
        "codec_ceiling": codec_ceiling(model.bundle.codec, seen, world),
        "scenes": count,
        "objects": most,
        "steps": steps,
        "seed": seed,
    }


def suite_scenes(
    count: int, seed: int, most: int = MOST, world: World = SMALL
) -> tuple[list[Scene], list[Scene]]:
    """Scenes without and with a held-out pair; no training draws from this range of seeds."""
    seen: list[Scene] = []
    held_out: list[Scene] = []
    number = _FIRST + 10**6 * seed
    while len(seen) < count or len(held_out) < count // 2:
        scene = make_scene(number, most, world)
        (held_out if scene.content & set(world.held_out) else seen).append(scene)
        number += 1
    return seen[:count], held_out[: count // 2]


def _drawn(model: Unified, scenes: Sequence[Scene], sampling: Sampling) -> list[Image]:
    return model.generate([captions(scene)[0] for scene in scenes], sampling)


def _captions_right(
    model: Unified, scenes: Sequence[Scene], pictures: Sequence[Image]
) -> list[bool]:
    said = model.describe(pictures)
    return [agrees(read_caption(t), s.things) for t, s in zip(said, scenes, strict=True)]


def _answers(
    model: Unified, scenes: Sequence[Scene], pictures: Sequence[Image], world: World
) -> list[tuple[str, bool]]:
    """One question of each kind in turn."""
    asked = []
    for number, scene in enumerate(scenes):
        choices = questions(captions(scene)[0], world)
        asked.append(choices[number % len(choices)])
    said = model.ask(pictures, [question for question, _ in asked])
    return [(q, text == answer) for (q, answer), text in zip(asked, said, strict=True)]


def _cycle(model: Unified, drawn: Sequence[Image], scenes: Sequence[Scene]) -> float:
    """Share of drawn pictures that the model itself describes as what was asked for."""
    said = model.describe(drawn)
    return _share([agrees(read_caption(t), s.things) for t, s in zip(said, scenes, strict=True)])


def _attributes(
    read: Sequence[tuple[Thing, ...] | None], scenes: Sequence[Scene]
) -> dict[str, float]:
    """Share of pictures in which one attribute of all objects is right, order aside; a picture
    that cannot be read has none right."""

    def right(name: str) -> float:
        return _share(
            [
                things is not None
                and sorted(getattr(thing, name) for thing in things)
                == sorted(getattr(thing, name) for thing in scene.things)
                for things, scene in zip(read, scenes, strict=True)
            ]
        )

    counts = [
        things is not None and len(things) == len(scene.things)
        for things, scene in zip(read, scenes, strict=True)
    ]
    return {
        "count": _share(counts), "shape": right("shape"), "colour": right("colour"),
        "size": right("size"),
    }  # fmt: skip


@torch.no_grad()
def codec_ceiling(codec: Codec, scenes: Sequence[Scene], world: World = SMALL) -> float:
    """Share of clean pictures that are read rightly after the codec's encode and decode: what a
    model that copies perfectly would reach."""
    decoded = to_bytes(codec.decode(codec.encode(_views(codec, scenes)))).numpy()
    read = read_pictures(decoded, world)
    return _share([shows(r, s) for r, s in zip(read, scenes, strict=True)])


@torch.no_grad()
def codes_never_met(codec: Codec, seen: Sequence[Scene], held_out: Sequence[Scene]) -> list[float]:
    """Of each codebook, the share of the codes of held-out scenes that the others never have: what
    no training without the pairs can have taught. Of codecs without codes there are none."""
    if not codec.discrete:
        return []
    met, judged = (codec.encode(_views(codec, scenes)) for scenes in (seen, held_out))
    return list(never_met(codec.vocabularies, met, judged))


def _views(codec: Codec, scenes: Sequence[Scene]) -> torch.Tensor:
    """Scenes as the codec takes pictures."""
    small = [resize_center_crop(draw(scene, _DRAWN_AT), codec.side) for scene in scenes]
    return to_unit(torch.from_numpy(np.stack(small)))


def _share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
