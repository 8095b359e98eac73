"""What is said of codes that the data never has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from model_world import World

from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.codes_met import codes_never_met
from gristmill.model.data.shard_sources import open_samples
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup


def shares(config: TrainConfig) -> list[float]:
    return codes_never_met(make_setup(config).planner)


def test_a_share_of_the_codec_s_own_pictures_by_codebook(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    (whole,) = shares(config)
    few = dataclasses.replace(config.data[0], where="caption LIKE '%red star%'")
    (some,) = shares(dataclasses.replace(config, data=(few,)))
    # As counted by hand.
    samples = open_samples(config.data[0])
    met = np.zeros(64, bool)
    for shard in range(len(samples.counts())):
        table = samples.table(shard)
        texts = table["caption"].to_pylist()
        for text, codes in zip(texts, table["image_codes"].to_pylist(), strict=True):
            met[codes] |= "red star" in text
    expected = load_codec(world.codes).frequencies.numpy()[~met].sum()
    assert some == pytest.approx(expected) and 0 <= whole < 0.05 < some < 1
    said = make_setup(dataclasses.replace(config, data=(few,))).describe(config)["summary"]
    assert f"codes never met {some:.1%} of those of the codec's own pictures" in said


def test_nothing_is_said_where_it_cannot_be_told(world: World, tmp_path: Path) -> None:
    """Of latents, and of shards whose codes are not stored."""
    assert shares(world.config(tmp_path / "flow", "flow")) == []
    config = world.config(tmp_path / "plain")
    plain = dataclasses.replace(config.data[0], url=world.plain)
    assert shares(dataclasses.replace(config, data=(plain,))) == []
