"""What a run asks of its storage, and what many parts cost the driver.

python benchmarks/storage_requests.py runs           # requests by kind, on an S3 server (moto)
python benchmarks/storage_requests.py parts 100000   # a look at many parts of two nodes, on a disk

Requests are counted by the server. A figure a part is what four more parts cost, divided by four;
what a run asks once, however many parts it has, stands beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("GRISTMILL_STORAGE_PATIENCE", "5")

from counted_runs import NODES, counted_dag, counting, draw, run
from s3_server import FaultyApp, s3_server

_FEW, _MANY, _PART_ROWS = 2, 6, 4


def said(kinds: Counter[str], by: float) -> str:
    """Requests by kind and in all, each divided by `by`."""
    each = "  ".join(f"{kind} {kinds[kind] / by:6.2f}" for kind in sorted(kinds))
    return f"{kinds.total() / by:7.2f}   {each}"


def runs(journal: str | None) -> None:
    """Requests a part, once for a run, for nothing to do, and a sample of a shard."""
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        found: dict[tuple[str, int], Counter[str]] = {}
        for parts in (_FEW, _MANY):
            pictures = Path(folder) / f"pictures-{parts}"
            draw(pictures, parts * _PART_ROWS)
            dag = counted_dag(pictures, _PART_ROWS)
            for what in ("run", "nothing to do"):
                server.journal = [] if journal else None
                with counting(server) as found[what, parts]:
                    run(dag, f"s3://bucket/run-{parts}")
                if server.journal is not None:
                    name = f"{journal}-{what.replace(' ', '-')}-{parts}.txt"
                    Path(name).write_text("".join(f"{line}\n" for line in server.journal))
        for what in ("run", "nothing to do"):
            more = found[what, _MANY].copy()
            more.subtract(found[what, _FEW])
            print(f"{what}, a part:         {said(more, _MANY - _FEW)}")
            once = found[what, _FEW].total() - more.total() * _FEW / (_MANY - _FEW)
            print(f"{what}, once a node:    {once / NODES:7.2f}")
            print(f"{what}, {_FEW} parts, a node: {said(found[what, _FEW], NODES)}")
        _shards(server, Path(folder))


def _shards(server: FaultyApp, folder: Path) -> None:
    """Requests of the shards of 512 samples in 8 parts, a shard of 256."""
    pictures, out, rows = folder / "many", "s3://bucket/many", 512
    draw(pictures, rows)
    dag = counted_dag(pictures, 64, shard=256)
    run(dag, out)
    dag = dag.replace("shards", dataclasses.replace(dag.stage("shards"), seed=1))
    with counting(server) as found:
        run(dag, out)
    with counting(server) as again:
        run(dag, out)
    found.subtract(again)
    print(f"shards, a sample:     {said(found, rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("runs").add_argument("--journal", help="write what is asked to files")
    commands.add_parser("parts").add_argument("count", type=int)
    options = parser.parse_args()
    if options.what == "runs":
        runs(options.journal)


if __name__ == "__main__":
    main()
