"""What is left out in training is what samplers leave out to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.tasks import (
    GuidanceDropout,
    continuing,
    drawing,
    editing,
    recounting,
    segments_for,
    unsaid,
    unseen,
)

SAMPLES: dict[str, dict[str, Any]] = {
    "draw": {"caption": "a star"},
    "clip": {"caption": "a star moves", "media": "video", "frames": 3},
    "continue": {"caption": "a star moves", "media": "video", "frames": 3},
    "edit": {"caption": "make it blue", "media": "edit"},
    "interleaved": {
        "caption": "x", "media": "document", "texts": ["a", "b", "c"], "image_places": [1, 2, 3],
    },
}  # fmt: skip


def _learnt(name: str, dropout: GuidanceDropout, times: int) -> list[list[Segment]]:
    task = "draw" if name == "clip" else name
    found = []
    for seed in range(times):
        rng = np.random.default_rng(seed)
        columns: Any = SAMPLES[name]
        segments = segments_for(task, columns, rng, questions=None, dropout=dropout)
        assert segments is not None
        found.append(segments)
    return found


def _asked(segments: Sequence[Segment]) -> list[list[Segment]]:
    """A prompt for each picture that is drawn, with all before it given."""
    return [
        [*(replace(s, is_target=False) for s in segments[:i]), segment]
        for i, segment in enumerate(segments)
        if isinstance(segment, ImageSegment) and segment.is_target
    ]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_prompt_of_guidance_was_learnt(name: str) -> None:
    trained = _learnt(name, GuidanceDropout(text=0.4, pictures=0.4), 100)
    learnt = [prompt for segments in trained for prompt in _asked(segments)]
    (whole,) = {tuple(s) for s in _learnt(name, GuidanceDropout(text=0, pictures=0), 3)}
    assert list(whole) in trained
    for prompt in _asked(whole):
        assert unsaid(prompt) in learnt and unseen(prompt) in learnt


def test_shares_are_kept_and_only_what_is_there_is_left_out() -> None:
    dropout = GuidanceDropout(text=0.3, pictures=0.2)
    edits = _learnt("edit", dropout, 1000)
    pictures = [sum(isinstance(s, ImageSegment) for s in found) for found in edits]
    said = [any(isinstance(s, TextSegment) and s.text for s in found) for found in edits]
    assert abs(pictures.count(1) / 1000 - 0.2) < 0.05
    assert abs(said.count(False) / 1000 - 0.5) < 0.05
    # With one picture there is no earlier one: prompts keep their own share.
    drawn = _learnt("draw", dropout, 1000)
    assert abs(drawn.count(drawing("")) / 1000 - 0.3) < 0.05


def test_what_is_left_of_each_task() -> None:
    assert unsaid(drawing("a star", 2)) == drawing("", 2) and unseen(drawing("x")) == drawing("")
    assert unsaid(editing("make it blue")) == editing("")
    assert unseen(editing("make it blue")) == editing("")[1:]
    assert unseen(continuing("a star", 3), 0) == [drawing("")[0], ImageSegment(1, is_target=True)]
    story = recounting(["a", "b"], [0, 1])
    assert unsaid(story) == [ImageSegment(0, is_target=True), ImageSegment(1, is_target=True)]
    assert unseen(story) == [ImageSegment(1, is_target=True)]
