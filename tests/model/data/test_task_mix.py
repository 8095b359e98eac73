"""What becomes of a sample that is longer than a row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model.data.planner import DocumentPlan, Planner
from gristmill.model.documents.segments import ImageSegment, TextSegment
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup


def _planned(config: TrainConfig) -> tuple[Planner, list[DocumentPlan]]:
    """A document of each sample of a shard."""
    planner = make_setup(config).planner
    plans = [planner._document(0, 0, row, (5, row)) for row in range(60)]
    assert None not in plans
    return planner, [plan for plan in plans if plan is not None]


@pytest.mark.parametrize("paradigm", ["ar", "flow"])
@pytest.mark.parametrize("task", ["draw", "describe", "answer", "interleaved"])
def test_texts_longer_than_the_row_leaves_room_for_are_learnt_from_their_beginning(
    world: World, tmp_path: Path, task: str, paradigm: str
) -> None:
    config = world.config(tmp_path, paradigm, guidance_dropout=0.0, row_length=400)
    source = dataclasses.replace(config.data[0], tasks={task: 1.0}, turns=2)
    config = dataclasses.replace(config, data=(source,))
    planner, before = _planned(config)
    lengths = [planner.writer.length(plan.segments, plan.grids) for plan in before]
    row_length = min(lengths) + 4
    planner, after = _planned(dataclasses.replace(config, row_length=row_length))
    assert 0 < sum(plan.windowed for plan in after) < len(after)
    encode = planner.writer.vocabulary.encode
    for length, whole, plan in zip(lengths, before, after, strict=True):
        assert plan.windowed == (length > row_length)
        found = planner.writer.length(plan.segments, plan.grids)
        assert found <= row_length
        if not plan.windowed:
            assert plan == whole
            continue
        if task == "interleaved":
            # A part of it, from a text or the picture on.
            assert len(plan.segments) < len(whole.segments) or found > row_length - 3
            continue
        assert found > row_length - len(plan.segments)
        for cut, said in zip(plan.segments, whole.segments, strict=True):
            if isinstance(cut, ImageSegment) or cut == said:
                assert cut == said
                continue
            assert isinstance(said, TextSegment) and cut.ids and not cut.ends
            assert list(cut.ids) == encode(said.text)[: len(cut.ids)]
            assert cut.special_token == said.special_token and cut.is_target == said.is_target


def test_where_the_picture_alone_is_longer_nothing_is_cut(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path, row_length=16)
    planner, plans = _planned(config)
    assert not any(plan.windowed for plan in plans)
    with pytest.raises(ConfigurationError, match=r"rows have 16; give --row-length \d+"):
        planner.block(planner.start().lanes[0])
