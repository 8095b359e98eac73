"""Every figure, one after the other, each in a process of its own, and what all of them printed.

    python benchmarks/all.py --quick                 # small sizes: whether each runs, and about
    python benchmarks/all.py                         # the sizes of README.md: hours
    python benchmarks/all.py --quick --only hashes   # some of them

Small sizes say whether a figure is of the right order; those of README.md were had by the commands
that stand there, on a machine that did nothing else. What is beside a peer prints its ratio, with
the range over its pairs. A figure that needs what this machine has not is named, with the reason.
Ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# FOLDER in a command: a new one, which is removed.
FOLDER = "FOLDER"
# Lines that runs say on their way.
_LOG = re.compile(r"^\d\d:\d\d:\d\d |^(drawing|serving|step \d)")
_LINES = 14


@dataclass(frozen=True)
class Figure:
    """A benchmark, or some in a row; commands without `python benchmarks/`."""

    name: str
    quick: tuple[str, ...]
    whole: tuple[str, ...]
    # Programs that it needs; "root" to be root.
    needs: tuple[str, ...] = ()

    def missing(self) -> str:
        """What this machine lacks for it; empty if nothing."""
        for need in self.needs:
            if need == "root" and os.geteuid() != 0:
                return "must be root"
            if need != "root" and shutil.which(need) is None:
                return f"no {need}"
        return ""


FIGURES = (
    Figure(
        "download and resize, beside img2dataset",
        ("download.py --pictures 60 --pairs 1",),
        ("download.py",),
    ),
    Figure(
        "a faulty web, beside img2dataset",
        ("faulty_web.py --rows 200 --pairs 1",),
        ("faulty_web.py",),
    ),
    Figure(
        "dead host names, beside img2dataset",
        ("dead_names.py --pictures 60 --pairs 1",),
        ("dead_names.py",),
        needs=("unshare", "root"),
    ),
    Figure(
        "CLIP end to end, beside the bare forward",
        ("scores.py --rows 64 --pairs 1",),
        ("scores.py",),
    ),
    Figure("pairs of hashes, beside faiss", ("hashes.py --n 100000",), ("hashes.py",)),
    Figure("parts", ("engine.py parts",), ("engine.py parts",)),
    Figure("many rows", ("engine.py rows 30000",), ("engine.py rows 1000000",)),
    Figure(
        "requests to a store",
        ("storage_requests.py runs", "storage_requests.py parts 1000"),
        ("storage_requests.py runs", "storage_requests.py parts 100000"),
    ),
    Figure(
        "another choice",
        ("selection.py keep --rows 50000",),
        ("selection.py keep",),
    ),
    Figure(
        "copies, the plan of shards, near captions, semantic neighbours",
        tuple(
            f"selection.py {what} --rows 20000"
            for what in ("copies", "plan", "captions", "semantic", "recall")
        ),
        tuple(
            f"selection.py {what}" for what in ("copies", "plan", "captions", "semantic", "recall")
        ),
    ),
    Figure(
        "the report",
        (f"report.py make {FOLDER} 30000", f"report.py measure {FOLDER}"),
        (f"report.py make {FOLDER} 3000000", f"report.py measure {FOLDER}"),
    ),
    Figure(
        "shards, beside webdataset",
        ("shards.py --pictures 500 --pairs 1",),
        ("shards.py", "shards.py --pictures 1000 --side 768"),
    ),
    Figure(
        "a cluster that loses nodes and its driver",
        ("cluster.py --rows 400",),
        ("cluster.py",),
        needs=("ip", "root"),
    ),
    Figure(
        "the loader, beside webdataset",
        ("training.py loader --scenes 500 --steps 20",),
        ("training.py loader",),
    ),
    Figure(
        "a training step",
        ("training.py step --scenes 500 --steps 20",),
        ("training.py step",),
    ),
    Figure(
        "videos, beside scenedetect with ffmpeg",
        ("video.py cut",),
        ("video.py cut", "video.py scores", "video.py cuts"),
        needs=("ffmpeg", "scenedetect"),
    ),
    Figure(
        "storage that fails",
        ("storage_faults.py --seeds 4",),
        ("storage_faults.py",),
    ),
    Figure(
        "crawl archives",
        ("crawl.py --pages 100 --times 2 --main-text 20",),
        ("crawl.py",),
    ),
    Figure(
        "damaged sources",
        ("fuzz_sources.py --files 60 --videos 6",),
        ("fuzz_sources.py",),
    ),
    Figure(
        "damaged trainings",
        ("fuzz_training.py --seeds 1",),
        ("fuzz_training.py",),
    ),
    Figure(
        "kills",
        ("kills.py --kills 1 --runner local --scenes 60",),
        ("kills.py",),
    ),
)


def said(output: str) -> list[str]:
    """What a benchmark printed, without what its runs said on the way; the end, if it is much."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    return [line for line in lines if not _LOG.match(line)][-_LINES:]


def measure(commands: Sequence[str], limit_s: float) -> tuple[bool, float, list[str]]:
    """Whether all commands of a figure went well, their seconds, and what they printed."""
    start, lines = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="gristmill-figures-") as folder:
        for command in commands:
            script, *arguments = command.replace(FOLDER, f"{folder}/figure").split()
            words = [sys.executable, str(HERE / script), *arguments]
            if script == "dead_names.py":
                words = ["unshare", "--mount", *words]
            try:
                done = subprocess.run(
                    words, cwd=HERE, capture_output=True, text=True, timeout=limit_s, check=False
                )
            except subprocess.TimeoutExpired:
                lines.append(f"{command} took more than {limit_s:.0f} s")
                return False, time.perf_counter() - start, lines
            lines += said(done.stdout)
            if done.returncode:
                lines += [f"{command} ended with {done.returncode}", *said(done.stderr)[-3:]]
                return False, time.perf_counter() - start, lines
    return True, time.perf_counter() - start, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--only", nargs="*", default=[], help="figures whose names hold such a word"
    )
    parser.add_argument("--limit", type=float, default=0, help="seconds for each command")
    options = parser.parse_args()
    limit = options.limit or (600.0 if options.quick else 6 * 3600.0)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}\n")
    print("| figure | seconds | what it printed |\n|---|---:|---|", flush=True)
    failed = False
    for figure in FIGURES:
        if options.only and not any(word in figure.name for word in options.only):
            continue
        if why := figure.missing():
            print(f"| {figure.name} | | not run: {why} |", flush=True)
            continue
        good, seconds, lines = measure(figure.quick if options.quick else figure.whole, limit)
        failed |= not good
        cell = "<br>".join(line.replace("|", "\\|") for line in lines)
        print(
            f"| {figure.name} | {seconds:.0f} | {'' if good else '**failed**: '}{cell} |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
