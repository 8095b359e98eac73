"""What all tests share: one Ray, no way out to the network or to a home folder's caches, and a
check that they leave the checkout as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from checkout import Snapshot, changes, take_snapshot
from shape_checker import check_shapes

# Before any test module imports the model.
check_shapes()

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    NO_ALBUMENTATIONS_UPDATE="1",
    # Storage of tests is here or it is not.
    GRISTMILL_STORAGE_PATIENCE="0.5",
    RAY_USAGE_STATS_ENABLED="0",
    # Workers of a Ray started here must find the test stages.
    PYTHONPATH=os.pathsep.join(
        path for path in (os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")) if path
    ),
)

ROOT = Path(__file__).parents[1]
_BEFORE = pytest.StashKey[Snapshot]()
_LEFT = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what lies in the checkout."""
    session.config.stash[_BEFORE] = take_snapshot(ROOT)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run of tests that leaves the checkout otherwise than it found it has failed."""
    left = changes(session.config.stash[_BEFORE], take_snapshot(ROOT))
    session.config.stash[_LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the files."""
    if left := config.stash.get(_LEFT, []):
        terminalreporter.section("the checkout is not as it was", red=True)
        for line in left:
            terminalreporter.write_line(line)
        terminalreporter.write_line(
            "a test writes below tmp_path alone; or did somebody work here meanwhile?"
        )


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests; runs find it initialised and leave it alone."""
    from gristmill.dags.engine.on_ray import RayRunner

    with RayRunner():
        yield
