"""Under torchrun the first rank to fail has its line printed last, and the others none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Two ranks that fail alike, and then the launcher's own wall of text.
LAUNCHER = """
import os, subprocess, sys
module = "gristmill.model.distributed.torchrun_errors"
tell = f"from {module} import tell; tell('ConfigurationError: no data')"
for rank in ("0", "1"):
    cause = os.path.join(sys.argv[1], rank, "error.json")
    told = {**os.environ, "TORCHELASTIC_ERROR_FILE": cause}
    subprocess.run([sys.executable, "-c", tell], env=told)
print("a wall of text", file=sys.stderr, flush=True)
"""


def test_the_line_comes_last_and_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines() == ["a wall of text", "ConfigurationError: no data"]
    cause = json.loads((tmp_path / "1" / "error.json").read_text())
    assert cause["message"]["extraInfo"]["py_callstack"] == "ConfigurationError: no data"


def test_without_torchrun_it_is_a_line_at_once() -> None:
    module = "gristmill.model.distributed.torchrun_errors"
    tell = f"from {module} import tell; tell('ConfigurationError: no data')"
    plain = {name: x for name, x in os.environ.items() if name != "TORCHELASTIC_ERROR_FILE"}
    done = subprocess.run(
        [sys.executable, "-c", tell], env=plain, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "ConfigurationError: no data\n"
