"""Download from a web with every fault there is, beside img2dataset: seconds, and rows by kind.

    python benchmarks/faulty_web.py [--rows 1000] [--pairs 3]

Half of the rows are sound JPEGs, a tenth each are missing pages (404) and pages that are no
picture, the rest are all kinds of `tests/faulty_web.py` in turn, dead names and drips among them.
Both have their own defaults (time, retries, size) but for the ports and addresses of loopback,
which ours refuses unless they are allowed. Prints the kinds of which only one kept rows.
"""

from __future__ import annotations

import argparse
import collections
import glob
import os
import random
import shutil
import statistics
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
from download import Theirs

from gristmill.pipelines.download.images import Download
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests"))
from faulty_web import FaultyWeb

COMMON = {"sound jpg": 0.5, "status 404": 0.1, "html": 0.1}


def mixed(urls: dict[str, str], count: int) -> list[tuple[str, str]]:
    """Kinds and addresses, each address its own where it can be."""
    rows = [name for name, share in COMMON.items() for _ in range(round(count * share))]
    kinds = list(urls)
    rows += [kinds[i % len(kinds)] for i in range(count - len(rows))]
    random.Random(0).shuffle(rows)
    return [(name, _numbered(urls[name], i)) for i, name in enumerate(rows)]


def _numbered(url: str, i: int) -> str:
    if not url.lower().startswith(("http://127", "https://127")):
        return url
    base, mark, fragment = url.partition("#")
    return f"{base}{'&' if '?' in base else '?'}{i}{mark}{fragment}"


def ours(stage: Download, table: pa.Table) -> tuple[float, dict[str, str]]:
    """Seconds, and what became of each URL."""
    start = time.perf_counter()
    found: dict[str, str] = {}
    for piece in stage.map(table):
        for row in piece.select(["url", "status", "error"]).to_pylist():
            found[row["url"]] = row["error"] if row["status"] != "success" else "success"
    return time.perf_counter() - start, found


def theirs(peer: Theirs, out: str) -> tuple[float, dict[str, str]]:
    """The same of img2dataset."""
    seconds, _ = peer.run(
        processes_count=2, thread_count=16, resize_mode="keep_ratio", image_size=256
    )
    found = {}
    for file in glob.glob(f"{out}/*.parquet"):
        for row in pq.read_table(file, columns=["url", "status", "error_message"]).to_pylist():
            found[row["url"]] = row["error_message"] or row["status"]
    return seconds, found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-faulty-")
    with FaultyWeb(10.0, 60_000_000) as web:
        rows = mixed(web.urls(folder), arguments.rows)
        pq.write_table(pa.table({"url": [url for _, url in rows]}), f"{folder}/urls.parquet")
        builder = RowBuilder("bench")
        for _, url in rows:
            builder.add(url_row(url))
        table = next(builder.take(all_rows=True))
        stage = Download(
            resize_mode="keep_ratio", allow_hosts=("127.0.0.1",), image_size=256, ports="any"
        )
        peer = Theirs(f"{folder}/urls.parquet", f"{folder}/theirs")
        print(f"{len(rows)} rows, {arguments.pairs} pairs, {os.cpu_count()} cores", flush=True)
        ratios = []
        for _ in range(arguments.pairs):
            web.forget()
            mine_s, mine = ours(stage, table)
            web.forget()
            peer_s, other = theirs(peer, f"{folder}/theirs")
            ratios.append(peer_s / mine_s)
            kept = [sum(said == "success" for said in found.values()) for found in (mine, other)]
            print(
                f"  ours {mine_s:.1f} s, {kept[0]} rows   img2dataset {peer_s:.1f} s, "
                f"{kept[1]} rows   ratio {ratios[-1]:.2f}",
                flush=True,
            )
        peer.process.kill()
    print(
        f"ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})\n"
        "kinds that only one kept (ours | img2dataset):"
    )
    differs: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for name, url in rows:
        if (mine[url] == "success") != (other.get(url) == "success"):
            differs[name, mine[url], str(other.get(url))[:60]] += 1
    for (name, here, there), count in sorted(differs.items()):
        print(f"  {count:4d}  {name:32s} {here} | {there}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
