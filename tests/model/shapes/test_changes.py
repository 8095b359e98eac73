"""The world of shapes in time, and the tasks that are learnt on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.documents.segments import ImageSegment, TextSegment
from gristmill.model.documents.tasks import GuidanceDropout, recounting, segments_for
from gristmill.model.shapes.changes import (
    draw_motion,
    make_edit,
    make_motion,
    make_story,
    shows_at,
)
from gristmill.model.shapes.parser import SIDE, read_pictures
from gristmill.model.shapes.scenes import draw


def read(scenes: list[Any]) -> list[Any]:
    return read_pictures(np.stack([resize_center_crop(draw(scene, 128), SIDE) for scene in scenes]))


@pytest.mark.parametrize("make", [make_motion, make_edit])
def test_what_follows_can_be_read_and_is_not_what_was(make: Any) -> None:
    changes = [make(seed) for seed in range(60)]
    after = read([change.after for change in changes])
    assert np.mean([shows_at(r, c.after) for r, c in zip(after, changes, strict=True)]) > 0.97
    assert not any(shows_at(r, c.before) for r, c in zip(after, changes, strict=True))
    assert make(7) == make(7) and make(7) != make(8)
    # Only one thing is another.
    for change in changes:
        assert len(set(change.before.things) & set(change.after.things)) == (
            len(change.before.things) - 1
        )


def test_a_clip_begins_with_what_was_and_ends_with_what_follows() -> None:
    motion = make_motion(3)
    frames = draw_motion(motion, 20, 96)
    assert np.array_equal(frames[0], draw(motion.before, 96))
    assert np.array_equal(frames[-1], draw(motion.after, 96))
    assert np.array_equal(frames[0], frames[4]) and not np.array_equal(frames[0], frames[10])
    # What a model is shown of it: the moments at 3/12 and 9/12.
    assert np.array_equal(frames[5], frames[0]) and np.array_equal(frames[15], frames[-1])


def test_a_story_comes_back_to_one_of_two() -> None:
    stories = [make_story(seed) for seed in range(40)]
    for story in stories:
        names = [scene.things[0].name for scene in story.scenes]
        assert names[2] == names[story.recalled] and names[0] != names[1]
        assert ("first", "second")[story.recalled] in story.texts[2]
        assert len({scene.seed for scene in story.scenes}) == 3
    assert 5 < sum(story.recalled for story in stories) < 35


def segments(task: str, **columns: Any) -> Any:
    rng = np.random.default_rng(0)
    nothing = GuidanceDropout(text=0, pictures=0)
    return segments_for(task, columns, rng, questions=None, dropout=nothing)


def test_tasks_are_asked_of_what_can_answer_them() -> None:
    clip = {"caption": "a star moves", "media": "video", "frames": 3}
    assert [s.number for s in segments("draw", **clip) if isinstance(s, ImageSegment)] == [0, 1, 2]
    learnt = [s.is_target for s in segments("continue", **clip) if isinstance(s, ImageSegment)]
    assert learnt == [False, True, True]
    assert [type(s) for s in segments("describe", **clip)] == [ImageSegment] * 3 + [TextSegment]
    pair = {"caption": "make it blue", "media": "edit"}
    seen, said, drawn = segments("edit", **pair)
    assert (seen.number, drawn.number, drawn.is_target, said.text) == (0, 1, True, "make it blue")
    for task in ("draw", "describe", "continue", "interleaved"):
        assert segments(task, **pair) is None
    story = {"caption": "x", "media": "document", "texts": ["a", "b"], "image_places": [1, 2]}
    assert segments("draw", **story) is None
    assert [type(s) for s in segments("interleaved", **story)] == [
        TextSegment, ImageSegment, TextSegment, ImageSegment,
    ]  # fmt: skip


def test_a_document_ends_once_and_pictures_keep_their_places() -> None:
    told = recounting(["a", "b", "c"], [0, 2, 2])
    kinds = [s.number if isinstance(s, ImageSegment) else s.text.strip() for s in told]
    assert kinds == [0, "a", "b", 1, 2, "c"]
    assert [s.ends for s in told if isinstance(s, TextSegment)] == [False, False, True]
    ended = recounting(["a"], [1])
    assert not any(s.ends for s in ended if isinstance(s, TextSegment)) and len(ended) == 2
