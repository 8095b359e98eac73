"""Kill -9 at random moments: the driver, or a worker, of a whole run; then compare bytes.

    python benchmarks/kills.py [--kills 20] [--runner ray|local] [--scenes 240]
    python benchmarks/kills.py --recipe video|interleaved|edit [--share 0.1] ...

Draws a little web, runs it once in peace, then once with a kill at each random moment, half of
them of the driver and half of a process below it, resuming each time; shards and ledger must be
the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.demos.find import find_demo
from gristmill.dags.demos.images import FilterTrainer, demo_dag, free_port
from gristmill.dags.demos.scale import FULL
from gristmill.dags.demos.web import build_web
from gristmill.dags.demos.web_server import HOST, Web, WebServer
from gristmill.dags.graph import Dag
from gristmill.dags.runs.verify import verify_run


def product(out: str) -> dict[str, bytes]:
    files = [p for name in ("shards", "ledger") for p in sorted(Path(out, name).rglob("*"))]
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.is_file()}


def start(dag: str, out: str, runner: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "gristmill", "run", dag, "--out", out]
    return subprocess.Popen(
        [*program, "--runner", runner, "--plain"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def world(folder: str, recipe: str, scenes: int, share: float) -> tuple[Web, Dag]:
    """A little web, drawn, and the recipe of its demo in small parts."""
    network = f"{folder}/network"
    threshold = FilterTrainer(network, 0, FULL).train()["threshold"]
    port = free_port()
    if recipe == "image-text":
        web = build_web(f"{folder}/web", scenes=scenes, seed=1, port=port)
        return web, dataclasses.replace(demo_dag(web, network, threshold), part_rows=40)
    os.makedirs(f"{folder}/web/site")
    demo = find_demo(recipe)
    drawn = demo.build(f"{folder}/web", f"http://{HOST}:{port}", 1, share)
    Path(f"{folder}/web/routes.json").write_text(json.dumps(drawn.routes))
    dag = demo.dag(f"{folder}/web/{drawn.source}", network, f"{HOST}:{port}")
    return Web(f"{folder}/web", port), dataclasses.replace(dag, part_rows=7)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="image-text")
    parser.add_argument("--share", type=float, default=0.1, help="of the size of a media demo")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--runner", default="ray")
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-kills-")
    web, dag = world(folder, arguments.recipe, arguments.scenes, arguments.share)
    path = f"{folder}/dag.yaml"
    Path(path).write_text(dump_dag(dag))
    moments = random.Random(arguments.seed)
    with WebServer(web):
        began = time.perf_counter()
        assert start(path, f"{folder}/calm", arguments.runner).wait() == 0
        calm = time.perf_counter() - began
        print(f"in peace: {calm:.0f} s, {len(product(f'{folder}/calm'))} files", flush=True)
        kills = {"driver": 0, "worker": 0}
        while sum(kills.values()) < arguments.kills:
            # Every few kills the folder is fresh, so that all phases are hit.
            if sum(kills.values()) % 5 == 0:
                shutil.rmtree(f"{folder}/killed", ignore_errors=True)
            process = start(path, f"{folder}/killed", arguments.runner)
            time.sleep(moments.uniform(0.2, 0.9) * calm)
            what = "driver" if sum(kills.values()) % 2 == 0 else "worker"
            if process.poll() is None:
                below = psutil.Process(process.pid).children(recursive=True)
                ours = [p for p in below if _is_worker(p)]
                if what == "driver":
                    process.send_signal(signal.SIGKILL)
                    kills[what] += 1
                elif ours:
                    os.kill(moments.choice(ours).pid, signal.SIGKILL)
                    kills[what] += 1
            code = process.wait()
            done = code == 0 or start(path, f"{folder}/killed", arguments.runner).wait() == 0
            same = product(f"{folder}/killed") == product(f"{folder}/calm")
            print(
                f"kill {sum(kills.values())} ({what}): ended with {code}, resumed {done}, "
                f"same bytes {same}",
                flush=True,
            )
            assert done and same
            if sum(kills.values()) % 5 and sum(kills.values()) < arguments.kills:
                # The next kill meets a run that is half done.
                for node in ("clip", "keep", "shards"):
                    for place in Path(folder, "killed/nodes").glob(f"{node}-*"):
                        shutil.rmtree(place)
    problems = verify_run(f"{folder}/killed")
    print(f"{kills}; verify: {problems or 'nothing wrong'}")
    shutil.rmtree(folder)


def _is_worker(process: psutil.Process) -> bool:
    """Children that hold stages, and Ray's actors."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "gristmill.pipelines.child" in line or line.startswith("ray::MapWorker")


if __name__ == "__main__":
    main()
