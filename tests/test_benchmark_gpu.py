"""The checks for a GPU run here, small, each to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def _lines(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.drill
def test_every_check_runs_to_its_end() -> None:
    machine, *found = _lines()
    assert machine["device"] == "cpu" and len(found) == 12
    assert not [line for line in found if "skipped" in line or "error" in line]
    assert [line["equal"] for line in found if "equal" in line] == [True, True]
    steps = [line for line in found if str(line["check"]).startswith("step")]
    assert len(steps) == 8 and all(float(str(line["tokens_per_s"])) > 0 for line in steps)


@pytest.mark.drill
def test_without_time_what_is_left_is_named() -> None:
    _, *found = _lines("--seconds", "0")
    assert len(found) == 12 and all(line["skipped"] == "no time left" for line in found)
