"""The world of shapes, made once for all tests of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_world import World, make_world

from gristmill.model.training.train_config import TrainConfig


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Small shards, codecs and an encoder."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def config(world: World, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A configuration that trains into this test's folder."""

    def make(paradigm: str = "ar", **changes: Any) -> TrainConfig:
        return world.config(tmp_path / "out", paradigm, **changes)

    return make
