"""A block is one graph to a compiler, alone and where FSDP gathers its weights. The code that a GPU
runs is traced on a CPU: nothing of what is counted depends on a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "graph_breaks.py"


def test_a_block_is_one_graph_and_what_fsdp_does_is_outside_of_it() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # One graph, no break; 32 labels.
    whole = [1, 0, 32]
    assert json.loads(done.stdout) == {"dense": whole, "mot": whole, "moe": whole}
