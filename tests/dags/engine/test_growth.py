"""Ten times the rows take at most ten times the seconds, and the driver no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# A driver in a process of its own, with its own peak of memory.
PROGRAM = """
import json, resource, sys
from gristmill.dags.engine import execute as e
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sources.source import Source

# As if they were many: steps over all rows are workers' then.
e.SMALL_ROWS = 1000
rules = {"short": "caption_chars < quantile(caption_chars, 0.3)", "copy": "caption_copies > 1"}
nodes = {
    "source": Node(Source(path=sys.argv[1])),
    "facts": Node(CaptionFacts(), ("source",)),
    "copies": Node(CaptionDuplicates(prefer=(), bands=2), ("source",)),
    "keep": Node(Keep(rules=rules, captions="first"), ("facts", "copies")),
}
dag = Dag("growth", nodes, part_rows=1000)
summary = e.execute(dag, sys.argv[2], e.RunOptions(runner="local"), make_progress(plain=True))
used = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss is no less than that of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "kept": summary["kept"], "ledger_ok": summary["ledger_ok"],
    "workers_s": sum(node["seconds"] for node in summary["nodes"].values()),
    "driver_s": used.ru_utime + used.ru_stime,
    "driver_mb": int(peak.split()[1]) / 1024,
}))
"""


def run(folder: Path, rows: int) -> dict[str, float]:
    table = {
        "url": [f"http://host{i % 99}.test/{i}.jpg" for i in range(rows)],
        "caption": [f"a picture of thing {i} beside thing {i * 7 % 1009}" for i in range(rows)],
    }
    pq.write_table(pa.table(table), folder / f"{rows}.parquet")
    command = [sys.executable, "-c", PROGRAM, str(folder / f"{rows}.parquet"), str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.drill
def test_ten_times_the_rows(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    small, large = run(few, 6_000), run(many, 60_000)
    assert small["ledger_ok"] and large["ledger_ok"] and 0 < large["kept"] < 60_000
    assert large["driver_mb"] < small["driver_mb"] + 20, (small, large)
    # Most of what little takes is the start: far from ten on a machine that does other things too.
    for who in ("workers_s", "driver_s"):
        assert large[who] < 10 * small[who], (small, large)
