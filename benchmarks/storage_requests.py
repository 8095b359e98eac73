"""What a run asks of its storage, and what many parts cost the driver.

python benchmarks/storage_requests.py runs           # requests by kind, on an S3 server (moto)
python benchmarks/storage_requests.py parts 100000   # a look at many parts of two nodes, on a disk
python benchmarks/storage_requests.py clients        # fsspec's S3 beside obstore, if that is here

Requests are counted by the server. A figure a part is what four more parts cost, divided by four;
what a run asks once, however many parts it has, stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("GRISTMILL_STORAGE_PATIENCE", "5")

from counted_runs import NODES, counted_dag, counting, draw, run
from s3_server import FaultyApp, s3_server

from gristmill.dags.engine import ledger_writer
from gristmill.dags.engine.execute import RunOptions, _Execution, execute
from gristmill.dags.engine.lay_out import lay_out
from gristmill.dags.engine.on_local import LocalRunner, Operator
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.read_parts import PARTS
from gristmill.dags.engine.records import FileRecord, Record
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.schedule import Chain
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.plan import make_plan, run_status
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.sealed import seal, write_sealed
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder

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
    """Requests of the shards of 2,048 samples in 8 parts, a shard of 512."""
    pictures, out, rows = folder / "many", "s3://bucket/many", 2048
    draw(pictures, rows)
    dag = counted_dag(pictures, 256, shard=512)
    run(dag, out)
    dag = dag.replace("shards", dataclasses.replace(dag.stage("shards"), seed=1))
    with counting(server) as found:
        run(dag, out)
    with counting(server) as again:
        run(dag, out)
    found.subtract(again)
    print(f"shards, a sample:     {said(found, rows)}")


def many_parts(count: int) -> None:
    """Seconds of a look at so many parts of two nodes, whose data files hold a byte each, and of
    the driver while a node of them is done by workers that take no time."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "urls.csv").write_text("url,caption\nhttp://a.test/1.jpg,a picture\n")
        nodes = {
            "source": Node(Source(path=f"{folder}/urls.csv")),
            "facts": Node(CaptionFacts(), ("source",)),
        }
        dag, out = Dag("many", nodes, part_rows=1), f"{folder}/run"
        layout = lay_out(dag, out)
        for node in ("source", "facts"):
            _commit(layout, node, range(count))
            layout.store(node).records()
            layout.store(node).gather()
        cut = {"parts": count, "rows": count, "chunks": 1, "limit": 0}
        write_sealed(layout.store("source").folder, PARTS, cut)
        files = [_one_byte(layout.folder.sub("ledger"), f"{n:06d}.parquet") for n in range(count)]
        facts = {"files": files, "total": {"kept": count, "dropped": 0, "merged": 0}}
        made_of = ledger_writer._made_of(layout, count, {})
        write_sealed(layout.folder, ledger_writer.LEDGER, {**facts, "made_of": made_of})
        options = RunOptions(runner="local")
        with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
            for what, work in {
                "nothing to do": lambda: execute(dag, out, options, make_progress(plain=True)),
                "status": lambda: run_status(out),
                "plan": lambda: make_plan(dag, out),
            }.items():
                start, busy = time.perf_counter(), time.process_time()
                work()
                wall, busy = time.perf_counter() - start, time.process_time() - busy
                print(f"{what}: {wall:.2f} s ({busy:.2f} s of processor), {count} parts, two nodes")
            layout = dataclasses.replace(
                layout, fingerprints={**layout.fingerprints, "facts": "f" * 64}
            )
            with run_lock(layout.folder) as lock:
                runner = Instant(layout)
                execution = _Execution(layout, options, make_progress(plain=True), lock)
                execution.parts, execution._runner = count, runner
                layout.store("source").records()
                start = time.process_time()
                execution._run_chain(Chain((("facts",),)))
                seconds = time.process_time() - start - runner.seconds
        print(f"driver: {1000 * seconds / count:.2f} ms of processor a part, {seconds:.1f} s")


class Instant(LocalRunner):
    """Commits parts as workers elsewhere would, at no cost to the driver."""

    def __init__(self, layout: RunLayout) -> None:
        self.layout, self.seconds = pickle.dumps(layout), 0.0

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        elsewhere = pickle.loads(self.layout)
        for task in tasks:
            start = time.process_time()
            _commit(elsewhere, "facts", [task])
            self.seconds += time.process_time() - start
            yield task


def _one_byte(folder: Folder, name: str) -> FileRecord:
    path = folder.join(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"x")
    return {"name": name, "size": 1, "xxh3": "0" * 32}


def _commit(layout: RunLayout, node: str, parts: Iterable[int]) -> None:
    store = layout.store(node)
    for part in parts:
        file = _one_byte(store.folder, f"{part:06d}-01234567.rows.parquet")
        inputs = {} if node == "source" else {"source": layout.digest("source", part)}
        record = Record(part, {"rows": file}, inputs=inputs, rows_in=1, rows_out=1)
        with open(store.folder.join(f"{part:06d}.json"), "wb") as out:
            out.write(seal(record.stored()))


def clients(count: int = 300) -> None:
    """Milliseconds of processor of a small object, written and read one after the other, by each
    client; the server, in this process, is the same for both."""
    with s3_server():
        folder = Folder("s3://bucket/small")
        data = bytes(1000)
        works: dict[str, tuple[Callable[[int], object], Callable[[int], object]]] = {
            "fsspec": (
                lambda i: folder.write_bytes(f"{i}", data),
                lambda i: folder.read_bytes(f"{i}"),
            )
        }
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            print("obstore is not here: pip install obstore")
        else:
            store = S3Store(
                "bucket",
                endpoint=os.environ["AWS_ENDPOINT_URL"],
                access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
                region=os.environ["AWS_DEFAULT_REGION"],
                client_options={"allow_http": True},
            )
            works["obstore"] = (
                lambda i: obstore.put(store, f"other/{i}", data),
                lambda i: obstore.get(store, f"other/{i}").bytes(),
            )
        for name, (write, read) in works.items():
            said = []
            for what, work in (("written", write), ("read", read)):
                work(0)
                start, busy = time.perf_counter(), time.process_time()
                for i in range(count):
                    work(i)
                wall, busy = time.perf_counter() - start, time.process_time() - busy
                said.append(f"{what} {1000 * busy / count:.1f} ms ({1000 * wall / count:.1f} wall)")
            print(f"{name}: {', '.join(said)}, with the server's share", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("runs").add_argument("--journal", help="write what is asked to files")
    commands.add_parser("parts").add_argument("count", type=int)
    commands.add_parser("clients")
    options = parser.parse_args()
    if options.what == "runs":
        runs(options.journal)
    elif options.what == "clients":
        clients()
    else:
        many_parts(options.count)


if __name__ == "__main__":
    main()
