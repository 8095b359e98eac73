"""Suites of the world of shapes in time: the frame that follows, the edit that was asked for, the
shape that a story comes back to. A picture is right when the parser reads exactly the things that
must be there, each in its cell (for stories: what it is, wherever it lies).

Controls: the pictures judged against other samples' truths, and, for motion and edits, the share
of pictures that show the scene as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gristmill.errors import ConfigurationError
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.sampling.unified import Unified
from gristmill.model.shapes.changes import Change, make_edit, make_motion, make_story, shows_at
from gristmill.model.shapes.parser import SIDE, read_pictures
from gristmill.model.shapes.scenes import Scene, Thing, draw
from gristmill.model.shapes.suite import codec_ceiling
from gristmill.pipelines.decode import Image

_FIRST = 9 * 10**12
_DRAWN_AT = 240


def evaluate_motion(
    model: Unified, *, count: int = 256, seed: int = 0, sampling: Sampling | None = None
) -> dict[str, object]:
    """The second frame of a clip, from the first and the caption."""

    def follow(before: list[Image], texts: list[str], sampling: Sampling) -> list[Image]:
        return [frame for (frame,) in model.extend_clips(before, texts, sampling=sampling)]

    return _changes("motion", model, make_motion, follow, count, seed, sampling)


def evaluate_edits(
    model: Unified, *, count: int = 256, seed: int = 0, sampling: Sampling | None = None
) -> dict[str, object]:
    """The picture after an edit, from the one before and the instruction."""
    return _changes("edits", model, make_edit, model.edit, count, seed, sampling)


def evaluate_stories(
    model: Unified, *, count: int = 256, seed: int = 0, sampling: Sampling | None = None
) -> dict[str, object]:
    """The last picture of a story, which shows what an earlier one showed."""
    _check(model)
    sampling = replace(sampling or Sampling(), seed=seed)
    stories = [make_story(_FIRST + seed * 10**6 + i) for i in range(count)]
    drawn = model.illustrate(
        [
            (s.texts, [draw(scene, _DRAWN_AT) for scene in s.scenes[:-1]], s.places[:-1])
            for s in stories
        ],
        sampling,
    )
    read = read_pictures(np.stack(drawn))
    wanted = [story.scenes[-1] for story in stories]
    others = [story.scenes[1 - story.recalled] for story in stories]
    return {
        "suite": "stories",
        "recall_exact": _share(_shows_what, read, wanted),
        "recall_exact_shuffled": _share(_shows_what, read, [*wanted[1:], wanted[0]]),
        # The shape that the story does not come back to.
        "other_shape": _share(_shows_what, read, others),
        "picture_invalid": float(np.mean([things is None for things in read])),
        "codec_ceiling": codec_ceiling(model.bundle.codec, wanted),
        "scenes": count,
        "seed": seed,
    }


def _changes(
    name: str,
    model: Unified,
    make: Callable[[int], Change],
    follow: Callable[..., list[Image]],
    count: int,
    seed: int,
    sampling: Sampling | None,
) -> dict[str, object]:
    _check(model)
    sampling = replace(sampling or Sampling(), seed=seed)
    changes = [make(_FIRST + seed * 10**6 + i) for i in range(count)]
    before = [draw(change.before, _DRAWN_AT) for change in changes]
    drawn = follow(before, [change.text for change in changes], sampling)
    read = read_pictures(np.stack(drawn))
    after = [change.after for change in changes]
    return {
        "suite": name,
        "picture_exact": _share(shows_at, read, after),
        "picture_exact_shuffled": _share(shows_at, read, [*after[1:], after[0]]),
        "unchanged": _share(shows_at, read, [change.before for change in changes]),
        "picture_invalid": float(np.mean([things is None for things in read])),
        "codec_ceiling": codec_ceiling(model.bundle.codec, after),
        "scenes": count,
        "seed": seed,
    }


def _shows_what(things: Sequence[Thing] | None, scene: Scene) -> bool:
    """The same things, wherever they lie."""
    if things is None:
        return False
    return sorted(thing.name for thing in things) == sorted(thing.name for thing in scene.things)


def _share(
    right: Callable[[Sequence[Thing] | None, Scene], bool],
    read: Sequence[tuple[Thing, ...] | None],
    scenes: Sequence[Scene],
) -> float:
    return round(float(np.mean([right(r, s) for r, s in zip(read, scenes, strict=True)])), 4)


def _check(model: Unified) -> None:
    if model.bundle.codec.side != SIDE:
        raise ConfigurationError(
            f"the suites of shapes read pictures of {SIDE} px, the model draws "
            f"{model.bundle.codec.side}"
        )


SUITES: dict[str, Callable[..., dict[str, object]]] = {
    "motion": evaluate_motion, "edits": evaluate_edits, "stories": evaluate_stories,
}  # fmt: skip
