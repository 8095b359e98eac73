"""What all tests share: one Ray, no way out to the network or to a home folder's caches, and a
check that they leave the checkout as it was.

`make test` runs them in as many processes as there are cores (pytest-xdist); a file stays in one
process, with what it built, and all that need Ray in the same.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

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
    # As a picture worker sets it: one in a test's process changes nothing for children then.
    OPENCV_IO_MAX_IMAGE_PIXELS="89000000",
    # Networks of tests are tiny, and the cores have tests of their own to run.
    OMP_NUM_THREADS="1",
    # Workers of a Ray started here must find the test stages.
    PYTHONPATH=os.pathsep.join(
        path for path in (os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")) if path
    ),
)

ROOT = Path(__file__).parents[1]
_BEFORE = pytest.StashKey[Snapshot]()
_LEFT = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what lies in the checkout; where tests run in several processes, their parent."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_BEFORE] = take_snapshot(ROOT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with Ray first: they take longest, and wait for one another."""
    items.sort(key=lambda item: not _needs_ray(str(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Hand tests out by the file, in the order of collection."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    """Tests of a file, and all that need Ray, are done by one process, with what it built."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _needs_ray(str(ROOT / file)) else file


@functools.cache
def _needs_ray(file: str) -> bool:
    return "ray_session" in Path(file).read_text()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run of tests that leaves the checkout otherwise than it found it has failed."""
    if _BEFORE not in session.config.stash:
        return
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
