"""Finished runs, each made once for all tests of what is done with runs and shown of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_world import make_home, run_here, wide_dag

from gristmill.dags.runs.forget import forget
from gristmill.pipelines.shards.reader import ShardSet


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run was started: pictures, weights and the run's folder. Not to be changed."""
    home = tmp_path_factory.mktemp("world") / "home"
    make_home(home)
    return home


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
