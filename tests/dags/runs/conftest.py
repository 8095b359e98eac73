"""One finished run, made once for all tests of what is done with runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import HubDouble
from hub_here import hub_here
from run_world import copy_home
from shard_set import build


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    """The folder of a run that a test may change; its home lies above it."""
    return copy_home(home, tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    """A hub on loopback, as the one that this process knows."""
    with hub_here() as double:
        yield double


@pytest.fixture(scope="session")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards to train, one to validate. Not to be changed."""
    return build(tmp_path_factory.mktemp("tars"), [20], licence="CC-BY-4.0")
