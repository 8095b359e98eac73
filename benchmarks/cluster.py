"""A cluster whose machines share nothing but an object store: one is lost, one comes, its driver is
killed and the job sent again by somebody else.

    python benchmarks/cluster.py [--rows 2000]      # as root, with iproute2; ten minutes on 2 cores

Machines are network namespaces on one bridge: a head without CPUs, two workers, a third that comes.
The S3 server (moto) and a web server with the pictures are on the bridge. The recipe is image-text
without CLIP's weights, with a node beside it that takes its time. Prints what came of it, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from drill_dag import whole
from ray_nodes import RayNodes, ray_nodes
from s3_server import s3_server

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.lease import TERM
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_lock import lock_holder
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.storage import Folder

BRIDGE, NET = "gmbridge", "10.77.0"
OUTSIDE = f"{NET}.1"
HEAD, FIRST, SECOND, THIRD, POD, OTHER_POD = (f"{NET}.{number}" for number in range(2, 8))
TERM_S = 10
START = "RAY_AUTH_MODE=token ray start --address=HEAD:6379 --num-cpus=1"


def sh(line: str) -> None:
    """Run a command line."""
    subprocess.run(shlex.split(line), check=True, capture_output=True)


def space(address: str) -> str:
    """The network namespace of a machine."""
    return f"gm{address.rpartition('.')[2]}"


def inside(address: str) -> Sequence[str]:
    """What stands before a command that runs on a machine."""
    return ("ip", "netns", "exec", space(address))


@contextlib.contextmanager
def machines() -> Iterator[None]:
    """Namespaces with an address each, on one bridge."""
    addresses = (HEAD, FIRST, SECOND, THIRD, POD, OTHER_POD)
    with contextlib.ExitStack() as stack:
        sh(f"ip link add {BRIDGE} type bridge")
        stack.callback(sh, f"ip link del {BRIDGE}")
        sh(f"ip addr add {OUTSIDE}/24 dev {BRIDGE}")
        sh(f"ip link set {BRIDGE} up")
        for address in addresses:
            name = space(address)
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
            sh(f"ip link add {name} type veth peer name eth0 netns {name}")
            # Also where a process holds on to the namespace.
            stack.callback(sh, f"ip link del {name}")
            sh(f"ip link set {name} master {BRIDGE} up")
            sh(f"ip -n {name} addr add {address}/24 dev eth0")
            sh(f"ip -n {name} link set eth0 up")
            sh(f"ip -n {name} link set lo up")
        yield


@contextlib.contextmanager
def pictures(rows: int) -> Iterator[str]:
    """A web server with so many pictures, some of them copies; yields its host and port."""
    folder = tempfile.mkdtemp(prefix="cluster-")
    for i in range(rows):
        rng = np.random.default_rng(i if i % 10 else 0)
        pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (160, 120))
        cv2.imwrite(f"{folder}/{i}.jpg", pixels)
    handler = functools.partial(Silent, directory=folder)
    server = http.server.ThreadingHTTPServer((OUTSIDE, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{OUTSIDE}:{server.server_port}"
    finally:
        server.shutdown()
        shutil.rmtree(folder)


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nowhere."""


def write_list(place: str, host: str, rows: int) -> None:
    """The list that a user would start from."""
    table = pa.table(
        {
            "url": [f"http://{host}/{i}.jpg" for i in range(rows)],
            "caption": [f"a picture of noise, number {i * i}, for the drill" for i in range(rows)],
        }
    )
    with fsspec.open(place, "wb") as file:
        pq.write_table(table, file)


def submit(
    nodes: RayNodes, settings: Sequence[str], pod: str, log: Path
) -> subprocess.Popen[bytes]:
    """Send the job, from a machine of its own."""
    sets = [word for setting in settings for word in ("--set", setting)]
    with open(log, "wb") as file:
        return subprocess.Popen(
            [
                *inside(pod), sys.executable, "-m", "gristmill", "submit", "drill_dag:whole",
                "--source", "s3://bucket/list.parquet", "--out", "s3://bucket/cluster", *sets,
                "--address", nodes.url,
            ],
            cwd=Path(__file__).parents[1] / "tests", env=nodes.env, stdout=file, stderr=file,
        )  # fmt: skip


def below(starter: subprocess.Popen[bytes], is_one: Callable[[str], bool]) -> list[psutil.Process]:
    """The processes of a machine whose command line is the one looked for."""
    found = []
    for process in psutil.Process(starter.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_one(" ".join(process.cmdline())):
                found.append(process)
    return found


def marks_of(nodes: RayNodes, address: str, marks: Path) -> int:
    """Parts that a machine has scored."""
    raylets = below(nodes.nodes[address], lambda line: line.split(" ")[0].endswith("/raylet"))
    files = [marks / str(raylet.pid) for raylet in raylets]
    return sum(os.path.getsize(file) for file in files if file.exists())


def product(out: str) -> dict[str, bytes]:
    """Every file of shards and ledger."""
    fs, root = fsspec.core.url_to_fs(out)
    fs.invalidate_cache()
    files = [path for name in ("shards", "ledger") for path in fs.find(f"{root}/{name}")]
    return {path.removeprefix(root): fs.cat_file(path) for path in files}


def drill(rows: int, folder: Path) -> dict[str, Any]:
    """All of it."""
    fs = fsspec.filesystem("s3")
    marks = folder / "marks"

    def done() -> int:
        fs.invalidate_cache()
        return len(fs.glob("bucket/cluster/nodes/slow-*/*.rows.parquet"))

    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with (
        contextlib.ExitStack() as stack,
        pictures(rows) as host,
        ray_nodes(head=HEAD, on=inside, more={**aws, TERM: str(TERM_S)}) as nodes,
    ):
        write_list("s3://bucket/list.parquet", host, rows)
        settings = [f"download.allow_hosts={host}", f"slow.marks={marks}"]
        nodes.do("ray get-auth-token --generate")
        nodes.start("RAY_AUTH_MODE=token ray start --head --num-cpus=0", HEAD)
        nodes.start(START, FIRST)
        nodes.start(START, SECOND)
        began = time.monotonic()
        log = folder / "first.log"
        client = submit(nodes, settings, POD, log)
        stack.callback(client.kill)

        def seen(true: Callable[[], object], what: str) -> None:
            def look() -> object:
                assert client.poll() is None, log.read_text()[-3000:]
                return true()

            nodes.wait_for(look, what)

        seen(lambda: done() >= 4, "no part")
        nodes.kill(FIRST)
        nodes.start(START, THIRD)
        seen(lambda: marks_of(nodes, THIRD, marks), "the node that came does nothing")
        before = done()
        drivers = below(nodes.nodes[HEAD], lambda line: "-m gristmill run" in line)
        assert drivers, "no driver"
        for process in drivers:
            process.kill()
        client.wait(300)
        again = folder / "second.log"
        second = submit(nodes, settings, OTHER_POD, again)
        stack.callback(second.kill)
        assert second.wait(3000) == 0, again.read_text()[-3000:]
        seconds = time.monotonic() - began
        fs.invalidate_cache()
        work = {address: marks_of(nodes, address, marks) for address in (SECOND, THIRD)}

        options = RunOptions(runner="local")
        dag = whole("s3://bucket/list.parquet").without_idle()
        download = dataclasses.replace(dag.stage("download"), allow_hosts=(host,))
        slow = dataclasses.replace(dag.stage("slow"), marks=str(folder / "here"), seconds=0.0)
        dag = dag.replace("download", download).replace("slow", slow)
        with Progress() as progress:
            summary = execute(dag, "s3://bucket/here", options, progress)
        one, other = product("s3://bucket/cluster"), product("s3://bucket/here")
        return {
            "rows": rows,
            "parts": summary["nodes"]["slow"]["parts"],
            "parts done when the driver was killed": before,
            "first client": f"exit {client.returncode}",
            "second client": f"exit {second.returncode}",
            "parts scored by the node that stayed": work[SECOND],
            "parts scored by the node that came": work[THIRD],
            "seconds on the cluster": round(seconds),
            "files": len(other),
            "same bytes as one machine": one == other,
            "verify": verify_run("s3://bucket/cluster"),
            "lock held by": lock_holder(Folder("s3://bucket/cluster")),
        }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    rows = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir="/tmp"))
    with machines(), s3_server(OUTSIDE):
        print(json.dumps(drill(rows, folder), indent=1))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
