"""Who has the token of a cluster, and that a run's own Ray lets in nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from gristmill.dags.engine.ray_token import find_token, own_token

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
STRANGER = """
import sys
import ray
from ray._raylet import GcsClient

try:
    print(GcsClient(address=sys.argv[1]).get_all_node_info())
except ray.exceptions.AuthenticationError:
    print("refused")
"""


@pytest.fixture
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and nothing in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_found_where_ray_finds_it(
    nothing_known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token() is None
    (nothing_known / ".ray").mkdir()
    (nothing_known / ".ray" / "auth_token").write_text("of the home\n")
    assert find_token() == "of the home"
    (nothing_known / "other").write_text("of a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nothing_known / "other"))
    assert find_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert find_token() == "given"


def test_a_ray_of_ones_own_gets_a_new_token_unless_one_was_chosen(
    nothing_known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = set()
    for _ in range(2):
        with own_token():
            tokens.add(find_token())
            # As Ray does.
            os.environ["RAY_AUTH_MODE"] = "token"
        assert not any(name in os.environ for name in VARIABLES)
    assert len(tokens) == 2 and None not in tokens
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with own_token():
        assert find_token() is None
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_runs_own_ray_refuses_a_stranger(ray_session: None, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    bare["HOME"] = str(tmp_path)
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": find_token() or ""}
    for env, answer in ((bare, "refused"), (bare | known, "NodeID")):
        asked = subprocess.run(
            [sys.executable, "-c", STRANGER, address], env=env, capture_output=True, text=True,
            check=True, timeout=300,
        )  # fmt: skip
        assert answer in asked.stdout, asked.stdout
