"""Which cluster is joined, and which address cannot work."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gristmill.cli import app
from gristmill.dags.engine.cluster_address import cluster_address, jobs_address
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.recipes.image_text import image_text
from gristmill.errors import ConfigurationError

# Command -> the least that it takes. Each command with --address is here, or the test fails.
DRIVERS = {
    "run": ["image-text", "--source", "nowhere.parquet", "--out", "nowhere"],
    "add": ["nowhere", "--source", "nowhere.parquet"],
    "train": ["tiny", "--data", "nowhere", "--out", "nowhere"],
}
JOBS = {
    "submit": ["image-text", "--source", "s3://bucket/urls.parquet", "--out", "s3://bucket/run"],
    "attach": ["gristmill-1"],
    "stop": ["gristmill-1"],
    "jobs": [],
}


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert jobs_address(None) == "http://head:8265"
    assert jobs_address("https://other") == "https://other"


def test_rays_client_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(address="ray://head:10001")
    with pytest.raises(ConfigurationError, match=r"--address auto.*gristmill submit"):
        execute(image_text(path="nowhere.parquet"), "nowhere", options, Progress())
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigurationError, match="Ray's client"):
        execute(image_text(path="nowhere.parquet"), "nowhere", RunOptions(), Progress())


def test_every_command_with_an_address_refuses_what_cannot_work() -> None:
    with_address = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if command.callback is not None and "address" in command.callback.__annotations__
    }
    assert with_address == DRIVERS.keys() | JOBS.keys()
    for commands, wrong in (
        (DRIVERS, ("ray://head:10001", "http://head:8265")),
        (JOBS, ("ray://head:10001", "auto", "head:6379")),
    ):
        for name, arguments in commands.items():
            for address in wrong:
                done = CliRunner().invoke(app, [name, *arguments, "--address", address])
                assert isinstance(done.exception, ConfigurationError), (name, address, done.output)
                said = str(done.exception)
                assert "--address auto" in said and "http://HEAD:8265" in said
                assert "\n" not in said
