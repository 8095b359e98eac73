"""Download where 30 % of the rows have dead host names, beside img2dataset: half of those do not
exist, half are never answered for.

    unshare --mount python benchmarks/dead_names.py [--pictures 300] [--pairs 3]

As root: a name server of its own listens on 127.0.0.1:53, and /etc/resolv.conf names it in a mount
namespace that ends with the benchmark. Prints seconds and living rows that came, with dead names
and without, of both.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
from download import Theirs, draw, ours

from gristmill.dags.demos.images import free_port
from gristmill.dags.demos.web_server import Web, WebServer
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests"))
from name_server import GONE, SILENT, answering_names

SHARE = 0.3
SETTING = {"processes_count": 2, "thread_count": 16, "resize_mode": "keep_ratio", "image_size": 256}


def rows_of(urls: list[str]) -> pa.Table:
    rows = RowBuilder("bench")
    for url in urls:
        rows.add(url_row(url))
    return next(rows.take(all_rows=True))


def mixed(living: list[str], port: int) -> list[str]:
    """The living rows with dead ones among them, evenly."""
    dead = round(len(living) * SHARE / (1 - SHARE))
    names = [f"{(GONE, SILENT)[i % 2]}{i}.test" for i in range(dead)]
    urls = [(i / len(living), url) for i, url in enumerate(living)]
    urls += [(i / dead, f"http://{name}:{port}/0.jpg") for i, name in enumerate(names)]
    return [url for _, url in sorted(urls)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-names-")
    with open(f"{folder}/resolv.conf", "w") as file:
        file.write("nameserver 127.0.0.1\n")
    subprocess.run(
        ["mount", "--bind", f"{folder}/resolv.conf", "/etc/resolv.conf"], check=True, timeout=10
    )
    draw(folder, arguments.pictures)
    port = free_port()
    living = [f"http://p{i}.test:{port}/{i}.jpg" for i in range(arguments.pictures)]
    lists = {"living alone": living, "30 % dead": mixed(living, port)}
    stage = Download(
        allow_hosts=tuple(f"p{i}.test" for i in range(arguments.pictures)),
        ports="any",
        resize_mode="keep_ratio",
    )
    print(f"{arguments.pictures} living rows, {arguments.pairs} rounds, {os.cpu_count()} cores")
    with answering_names(53), WebServer(Web(folder, port)):
        tables, peers = {}, {}
        for name, urls in lists.items():
            path = f"{folder}/{len(urls)}.parquet"
            pq.write_table(pa.table({"url": urls}), path)
            tables[name], peers[name] = rows_of(urls), Theirs(path, f"{folder}/theirs")
        ours(stage, tables["living alone"])
        found: dict[tuple[str, str], list[tuple[float, int]]] = {}
        for _ in range(arguments.pairs):
            for name in lists:
                for who, run in (
                    ("ours", functools.partial(ours, stage, tables[name])),
                    ("img2dataset", functools.partial(peers[name].run, **SETTING)),
                ):
                    found.setdefault((name, who), []).append(run())
                    seconds, rows = found[name, who][-1]
                    print(f"  {name}, {who}: {seconds:.1f} s, {rows} rows", flush=True)
        for (name, who), runs in found.items():
            seconds = statistics.median(one for one, _ in runs)
            came = sorted({rows for _, rows in runs})
            print(f"{name:14s} {who:12s} {seconds:6.1f} s   living rows {came}", flush=True)
        for peer in peers.values():
            peer.process.kill()
    subprocess.run(["umount", "/etc/resolv.conf"], check=False, timeout=10)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
