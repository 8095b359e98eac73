"""What the engine costs by itself: seconds per part, and memory for many rows of metadata.

python benchmarks/engine.py parts            # a node that does nothing, local and on Ray
python benchmarks/engine.py rows 10000       # caption facts, rules and ledger over that many rows
python benchmarks/engine.py rows 1000000     # [--ray]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.decode import Image
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import SUCCESS
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Map, Score


@dataclass(frozen=True, kw_only=True)
class Accept(Map):
    """Calls every row a success."""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        index = table.schema.get_field_index("status")
        status = pa.array([SUCCESS] * len(table))
        yield table.set_column(index, table.schema.field(index), status)


@dataclass(frozen=True, kw_only=True)
class Nothing(Score):
    """A column of zeros."""

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("nothing", pa.int32())])

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        return pa.table([np.zeros(len(table), np.int32)], schema=self.writes())


class Quiet(Progress):
    """Says nothing."""

    def _show(self, line: str, state: object = None) -> None:
        return None


def urls(folder: str, count: int) -> str:
    """LAION-like rows."""
    path = f"{folder}/urls.parquet"
    words = np.array(
        [
            "a",
            "photo",
            "of",
            "red",
            "blue",
            "small",
            "dog",
            "house",
            "tree",
            "on",
            "the",
            "beach",
            "with",
            "people",
        ]
    )
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(
        path, pa.schema([("url", pa.string()), ("caption", pa.string())])
    ) as file:
        for start in range(0, count, 50_000):
            n = min(50_000, count - start)
            captions = [" ".join(row) for row in words[rng.integers(0, len(words), (n, 9))]]
            links = [f"http://host{i % 999}.test/{start + i}.jpg" for i in range(n)]
            file.write_table(pa.table({"url": links, "caption": captions}))
    return path


def parts(folder: str) -> None:
    """Seconds per part of a chain of two nodes that do next to nothing, 100 parts of 10 rows."""
    for runner in ("local", "ray"):
        dag = Dag(
            "empty",
            {
                "source": Node(Source(path=urls(folder, 1000))),
                "accept": Node(Accept(), ("source",)),
                "nothing": Node(Nothing(), ("accept",)),
            },
            part_rows=10,
        )
        seconds = {}
        for size in (10, 1):
            taken = Dag(dag.name, dag.nodes, part_rows=10 * size)
            out = f"{folder}/{runner}-{size}"
            start = time.perf_counter()
            execute(taken, out, RunOptions(runner=runner), Quiet())
            seconds[size] = time.perf_counter() - start
        start = time.perf_counter()
        execute(dag, f"{folder}/{runner}-1", RunOptions(runner=runner), Quiet())
        again = time.perf_counter() - start
        each = (seconds[1] - seconds[10]) / 90
        print(
            f"{runner}: {1000 * each:.0f} ms per part of two nodes; 100 parts {seconds[1]:.1f} s, "
            f"10 parts {seconds[10]:.1f} s; nothing to do {again:.2f} s",
            flush=True,
        )


def rows(folder: str, count: int, runner: str) -> None:
    """Seconds of each step, and peak memory of the driver and of all processes (pages that they
    share not counted); the report is made by a process of its own."""
    dag = Dag(
        "metadata",
        {
            "source": Node(Source(path=urls(folder, count))),
            "accept": Node(Accept(), ("source",)),
            "facts": Node(CaptionFacts(), ("accept",)),
            "keep": Node(
                Keep(rules={"short": "caption_chars < quantile(caption_chars, 0.3)"}), ("facts",)
            ),
        },
    )
    out, before = f"{folder}/rows", peak_mb()
    progress = Steps()
    summary = execute(dag, out, RunOptions(runner=runner), progress)
    progress.finish("ledger")
    driver = peak_mb()
    code = (
        "import sys, time; from gristmill.dags.session import write_report; start = time.time();"
        "write_report(sys.argv[1]);"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(round(time.time() - start, 1), round(int(peak.split()[1]) / 1024))"
    )
    report = subprocess.run(
        [sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    facts: dict[str, object] = {name: summary[name] for name in ("rows_in", "kept", "seconds")}
    facts |= {"steps_s": progress.seconds, "report_s": float(report[-2])}
    facts |= {"driver_mb": driver, "of_which_imports_mb": before, "report_mb": int(report[-1])}
    facts["tree_mb"] = round(summary["peak_rss_mb"])
    print(json.dumps(facts), flush=True)


class Steps(Quiet):
    """Notes how long each step took; what comes after the last is the ledger and the summary."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def finish(self, name: str) -> None:
        """Note the time since the step before it ended."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now


def peak_mb() -> int:
    """Peak resident memory of this process so far, MiB."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def main() -> None:
    folder = tempfile.mkdtemp(prefix="bench-engine-")
    # Children and Ray workers must find the stages of this file.
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = here + os.pathsep + os.environ.get("PYTHONPATH", "")
    if sys.argv[1] == "parts":
        parts(folder)
    else:
        rows(folder, int(sys.argv[2]), "ray" if "--ray" in sys.argv else "local")
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # Under its own name, so that stages pickle by a name that can be imported.
    import engine

    engine.main()
