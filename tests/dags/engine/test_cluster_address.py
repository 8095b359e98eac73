"""Which cluster is joined, and which address cannot work."""

from __future__ import annotations

import pytest

from gristmill.dags.engine.cluster_address import cluster_address
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.recipes.image_text import image_text
from gristmill.errors import ConfigurationError


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"


def test_rays_client_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(address="ray://head:10001")
    with pytest.raises(ConfigurationError, match="--address auto"):
        execute(image_text(path="nowhere.parquet"), "nowhere", options, Progress())
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigurationError, match="cannot run Ray Data"):
        execute(image_text(path="nowhere.parquet"), "nowhere", RunOptions(), Progress())
