"""A Ray cluster of a head and two nodes: the run spreads, a node dies, nothing changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DRILL = Path(__file__).parents[2] / "cluster_drill.py"


def test_a_node_is_killed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRILL), str(tmp_path)], capture_output=True, text=True, check=False,
        timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["killed"] and facts["nodes that worked"] >= 2
    assert facts["same bytes"] and facts["files"] > 8
    assert facts["ledger_ok"] and facts["problems"] == []
