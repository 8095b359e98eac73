"""One finished run, made once for all tests of what is done with runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import HubDouble
from hub_here import hub_here
from run_world import copy_home, make_home, run_here, wide_dag
from shard_set import build

from gristmill.dags.runs.forget import forget
from gristmill.pipelines.shards.reader import ShardSet


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run was started: pictures, weights and the run's folder. Not to be changed."""
    home = tmp_path_factory.mktemp("world") / "home"
    make_home(home)
    return home


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    """The folder of a run that a test may change; its home lies above it."""
    return copy_home(home, tmp_path / "home")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run with every kind of file, after something was forgotten. A copy of it lies
    beside it as `kept`: what changes it puts it back."""
    home = tmp_path_factory.mktemp("wide") / "home"
    make_home(home, wide_dag())
    run = str(home / "run")
    forget(run, [("uid", ShardSet(f"{run}/shards")[0].uid)])
    run_here(home, wide_dag())
    shutil.copytree(home, home.parent / "kept")
    return home


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    """A hub on loopback, as the one that this process knows."""
    with hub_here() as double:
        yield double


@pytest.fixture(scope="session")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards to train, one to validate. Not to be changed."""
    return build(tmp_path_factory.mktemp("tars"), [20], licence="CC-BY-4.0")
