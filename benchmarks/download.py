"""Download and resize, and pass-through, against img2dataset: same server, same cores, one run.

    python benchmarks/download.py [--pictures 400] [--pairs 5]

Draws photo-like JPEGs of 1600x1200, serves them from a process of its own on loopback, and lets
both fetch them in turn. Prints medians and ratios. Start-up of either is left out: img2dataset is
timed from its first shard's start to its last one's end (shards of 50, so that all its processes
have work), our decoding children are started by a first run.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.demos.images import free_port
from gristmill.dags.demos.web_server import HOST, Web, WebServer
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row

THEIRS = """
import glob, json, shutil, sys
from img2dataset import download
urls, out = sys.argv[1], sys.argv[2]
for line in sys.stdin:
    options = json.loads(line)
    shutil.rmtree(out, ignore_errors=True)
    download(url_list=urls, input_format="parquet", url_col="url", output_folder=out, retries=0,
             output_format="webdataset", enable_wandb=False, number_sample_per_shard=50, **options)
    stats = [json.load(open(file)) for file in glob.glob(out + "/*_stats.json")]
    seconds = max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats)
    print("RESULT " + json.dumps([seconds, sum(s["successes"] for s in stats)]), flush=True)
"""


def draw(folder: str, count: int) -> None:
    """Photo-like pictures: smooth fields, edges and grain, as cameras give."""
    os.makedirs(f"{folder}/site")
    routes = {}
    for i in range(count):
        rng = np.random.default_rng(i)
        base = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (1600, 1200))
        for _ in range(12):
            corner, other = rng.integers(0, 1200, 2), rng.integers(0, 1200, 2)
            colour = [int(c) for c in rng.integers(0, 255, 3)]
            cv2.rectangle(base, corner.tolist(), other.tolist(), colour, 5)
        grain = rng.normal(0, 6, base.shape)
        picture = np.clip(base + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(f"{folder}/site/{i}.jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
        routes[f"/{i}.jpg"] = {"file": True, "type": "image/jpeg"}
    with open(f"{folder}/routes.json", "w") as file:
        json.dump(routes, file)


class Theirs:
    """img2dataset in a process that stays, so that its import counts once and apart."""

    def __init__(self, urls: str, out: str) -> None:
        program = [sys.executable, "-W", "ignore", "-c", THEIRS, urls, out]
        environment = os.environ | {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
        self.process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def run(self, **options: Any) -> tuple[float, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                seconds, successes = json.loads(line.removeprefix("RESULT "))
                return float(seconds), int(successes)
        raise RuntimeError("img2dataset ended")


def ours(stage: Download, table: pa.Table) -> tuple[float, int]:
    """Fetch all rows, pictures written to a file as they come."""
    start = time.perf_counter()
    done = 0
    with tempfile.TemporaryFile() as file:
        for piece in stage.map(table):
            for row in piece.to_pylist():
                done += row["status"] == "success"
                file.write(row["image"] or b"")
    return time.perf_counter() - start, done


def compare(name: str, mine: Any, theirs: Any, pairs: int, count: int) -> None:
    mine()
    theirs()
    ratios, a, b = [], [], []
    for _ in range(pairs):
        first, second = mine(), theirs()
        assert first[1] == second[1] == count, (first, second)
        a.append(count / first[0])
        b.append(count / second[0])
        ratios.append(second[0] / first[0])
    print(
        f"{name:34s} ours {statistics.median(a):7.1f}/s   img2dataset {statistics.median(b):7.1f}/s"
        f"   ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-download-")
    count = arguments.pictures
    draw(folder, count)
    port = free_port()
    urls = [f"http://{HOST}:{port}/{i}.jpg" for i in range(count)]
    pq.write_table(pa.table({"url": urls}), f"{folder}/urls.parquet")
    rows = RowBuilder("bench")
    for url in urls:
        rows.add(url_row(url))
    table = next(rows.take(all_rows=True))
    sizes = [os.path.getsize(f"{folder}/site/{i}.jpg") for i in range(count)]
    print(
        f"{count} JPEGs of 1600x1200, {sum(sizes) / count / 1e3:.0f} kB each, "
        f"{os.cpu_count()} cores, {arguments.pairs} interleaved pairs"
    )
    allowed = {"allow_hosts": (f"{HOST}:{port}",), "resize_mode": "keep_ratio"}
    with WebServer(Web(folder, port)):
        other = Theirs(f"{folder}/urls.parquet", f"{folder}/theirs")
        best = {}
        for processes, threads in ((1, 16), (2, 8), (2, 16), (2, 32)):
            setting = {"processes_count": processes, "thread_count": threads}
            other.run(**setting, resize_mode="keep_ratio", image_size=256)
            best[other.run(**setting, resize_mode="keep_ratio", image_size=256)[0]] = setting
        setting = best[min(best)]
        print(f"img2dataset is fastest here with {setting}")
        resized = functools.partial(other.run, **setting, resize_mode="keep_ratio", image_size=256)
        passed = functools.partial(other.run, **setting, disable_all_reencoding=True)
        for name, stage, peer in (
            ("resize to 256, decode exact", Download(**allowed), resized),
            ("resize to 256, decode fast", Download(decode="fast", **allowed), resized),
            ("pass-through (ours decodes once)", Download(reencode="never", **allowed), passed),
            (
                "pass-through, verify=structure",
                Download(reencode="never", verify="structure", **allowed),
                passed,
            ),
        ):
            mine = functools.partial(ours, stage, table)
            compare(name, mine, peer, arguments.pairs, count)
        other.process.kill()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
