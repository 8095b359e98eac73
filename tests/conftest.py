"""What all tests share: one Ray, and no way out to the network or to a home folder's caches."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    NO_ALBUMENTATIONS_UPDATE="1",
    RAY_USAGE_STATS_ENABLED="0",
    # Workers of a Ray started here must find the test stages.
    PYTHONPATH=os.pathsep.join(
        path for path in (os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")) if path
    ),
)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests; runs find it initialised and leave it alone."""
    from gristmill.dags.engine.on_ray import RayRunner

    with RayRunner():
        yield
