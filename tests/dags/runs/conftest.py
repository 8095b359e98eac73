"""One finished run, made once for all tests of what is done with runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_world import copy_home, make_home


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
