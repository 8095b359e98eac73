"""The engine on toy stages: same bytes whatever happens, nothing lost, nothing done twice."""

from __future__ import annotations

import dataclasses
import os
import random
import select
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_stages import ToyBrightness, ToyDraw, ToyLength, ToyRows

from gristmill.dags.engine import execute as engine
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.lease import TERM, Holder
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.run_folder import PartStore
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.score_operator import blocks
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import LedgerError, RunLockedError, WorkerError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.storage import Folder

QUICK = Supervision(row_deadline_s=1.0, map_silence_s=5.0)
HERE = Supervision(isolate=False)


def toy(part_rows: int = 16, rules: dict[str, str] | None = None, **stages: Any) -> Dag:
    rules = rules or {"dark": "brightness < quantile(brightness, 0.3)"}
    nodes = {
        "rows": Node(stages.get("rows", ToyRows())),
        "draw": Node(stages.get("draw", ToyDraw(fails=("picture 3",))), ("rows",)),
        "bright": Node(ToyBrightness(), ("draw",)),
        "length": Node(stages.get("length", ToyLength()), ("draw",)),
        "keep": Node(stages.get("keep", Keep(rules=rules)), ("bright", "length")),
    }
    return Dag("toy", nodes, part_rows)


def run(dag: Dag, out: Path, **options: Any) -> dict[str, Any]:
    options = {"runner": "local", "supervision": HERE} | options
    return execute(dag, str(out), RunOptions(**options), make_progress(plain=True))


def ledger(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted((out / "ledger").iterdir()))


def ledger_bytes(out: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((out / "ledger").iterdir())]


def test_every_row_has_one_fate(tmp_path: Path) -> None:
    summary = run(toy(), tmp_path)
    assert summary["ledger_ok"] and summary["rows_in"] == 40
    assert summary["dropped"]["rows"] == {"repeated row": 4}
    assert summary["dropped"]["draw"] == {"http 404": 1}
    dropped = sum(sum(reasons.values()) for reasons in summary["dropped"].values())
    assert summary["kept"] + dropped == 40
    table = ledger(tmp_path)
    assert sorted(table["row"].to_pylist()) == list(range(40))
    dark = table.filter(pa.compute.equal(table["reason"], "dark")).to_pylist()
    assert dark and all(row["value"].startswith("brightness=") for row in dark)
    kept = [r["brightness"] for r in table.to_pylist() if r["verdict"] == "kept"]
    assert max(row["brightness"] for row in dark) < min(kept)


def test_a_rerun_does_nothing_and_a_threshold_reruns_only_keep(tmp_path: Path) -> None:
    first = run(toy(), tmp_path)
    again = run(toy(), tmp_path)
    assert all(node["reused"] == node["parts"] for node in again["nodes"].values())
    assert again["kept"] == first["kept"]
    changed = run(toy(rules={"dark": "brightness < quantile(brightness, 0.6)"}), tmp_path)
    reused = {name: node["reused"] for name, node in changed["nodes"].items()}
    assert reused == {"rows": 3, "draw": 3, "bright": 3, "length": 3, "keep": 0}
    assert changed["kept"] < first["kept"]


def test_local_and_ray_with_one_and_two_workers_write_the_same_bytes(
    tmp_path: Path, ray_session: None
) -> None:
    dag = toy(length=ToyLength(raises=("picture 20",), kills=("picture 21",)))
    expected = None
    for name, options in {
        "local": {"supervision": QUICK},
        "ray1": {"runner": "ray", "workers": 1, "supervision": QUICK},
        "ray2": {"runner": "ray", "workers": 2, "supervision": QUICK},
    }.items():
        summary = run(dag, tmp_path / name, **options)
        assert summary["dropped"]["length"] == {"poisoned": 2}
        expected = expected or ledger_bytes(tmp_path / name)
        assert ledger_bytes(tmp_path / name) == expected


def test_rows_that_kill_hang_or_break_are_set_aside(tmp_path: Path) -> None:
    # Small parts: a row that kills is found by halving, and each death costs a new process.
    dag = toy(
        part_rows=4,
        rows=ToyRows(rows=8),
        draw=ToyDraw(kills=("picture 1",)),
        length=ToyLength(raises=("picture 4",), kills=("picture 5",), hangs=("picture 6",)),
    )
    run(dag, tmp_path, supervision=QUICK)
    poisoned = {
        (row["row"], row["node"]): row["value"]
        for row in ledger(tmp_path).to_pylist()
        if row["reason"] == "poisoned"
    }
    assert poisoned == {
        (1, "draw"): "poisoned",
        (4, "length"): "ValueError: cannot measure this",
        (5, "length"): "exited with status 7",
        (6, "length"): "no answer for 1 s",
    }


def test_a_chance_kill_leaves_no_trace(tmp_path: Path) -> None:
    run(toy(), tmp_path / "calm")
    stage = ToyLength(kill_once=str(tmp_path / "killed"))
    summary = run(toy(length=stage), tmp_path / "killed-once", supervision=QUICK)
    assert (tmp_path / "killed").exists()
    assert "length" not in summary["dropped"]
    assert ledger_bytes(tmp_path / "calm") == ledger_bytes(tmp_path / "killed-once")


def test_a_stage_that_fails_on_every_row_is_a_defect_not_poison(tmp_path: Path) -> None:
    everything = tuple(f"picture {i}" for i in range(40))
    with pytest.raises(WorkerError, match="cannot measure this"):
        run(toy(length=ToyLength(raises=everything)), tmp_path, supervision=QUICK)


def test_kill_9_of_the_driver_at_random_moments(tmp_path: Path) -> None:
    run(toy(part_rows=4), tmp_path / "calm")
    out = tmp_path / "killed"
    # One program that knows all modules, and forks a run each time it is asked.
    program = """
import os, sys
from pathlib import Path
from test_execute import run, toy
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(toy(part_rows=4), Path(sys.argv[1]))
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    moments, kills = random.Random(0), 0
    with subprocess.Popen(
        [sys.executable, "-c", program, str(out)], text=True, bufsize=1,
        env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as forks:  # fmt: skip
        assert forks.stdin is not None and forks.stdout is not None
        for _ in range(5):
            forks.stdin.write("go\n")
            driver = int(forks.stdout.readline())
            ended, _, _ = select.select([forks.stdout], [], [], moments.uniform(0.05, 0.6))
            if not ended:
                os.kill(driver, signal.SIGKILL)
                kills += 1
            assert int(forks.stdout.readline()) == (0 if ended else signal.SIGKILL)
        forks.stdin.close()
    assert kills
    assert run(toy(part_rows=4), out)["ledger_ok"]
    assert ledger_bytes(out) == ledger_bytes(tmp_path / "calm")


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    run(toy(), tmp_path)
    left = [tmp_path / "ledger/.writing-000000.parquet-1", tmp_path / "shards/train/.writing-x-2"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    run(toy(keep=Keep(rules={"never": "length > 99"})), tmp_path)
    assert not any(path.exists() for path in left)


def test_captions_of_one_image_stay_in_one_part_and_can_be_merged(tmp_path: Path) -> None:
    rows = ToyRows(captions=4)
    keep = Keep(rules={"never": "length > 99"}, captions="best", best_by="length")
    summary = run(toy(part_rows=6, rows=rows, draw=ToyDraw(), keep=keep), tmp_path)
    table = ledger(tmp_path)
    kept = [row["url"] for row in table.to_pylist() if row["verdict"] == "kept"]
    assert len(kept) == len(set(kept)) == len(set(table["url"].to_pylist()))
    assert summary["merged"] == 36 - len(kept)
    for file in (tmp_path / "ledger").iterdir():
        urls = set(pq.read_table(file)["url"].to_pylist())
        others = [f for f in (tmp_path / "ledger").iterdir() if f != file]
        assert not any(urls & set(pq.read_table(other)["url"].to_pylist()) for other in others)


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    assert run(toy(), tmp_path, limit=17)["rows_in"] == 17
    assert sorted(ledger(tmp_path)["row"].to_pylist()) == list(range(17))


def test_retry_failed_tries_only_what_may_heal(tmp_path: Path) -> None:
    run(toy(), tmp_path)
    stages = {"draw": ToyDraw()}
    fixed = toy(**stages)
    before = fingerprint_folder(tmp_path, "draw")
    # The web healed: the same node, given the same fingerprint, now draws picture 3.
    os.rename(before, before.parent / f"draw-{fingerprint(fixed, 'draw')[:12]}")
    summary = run(fixed, tmp_path, retry_failed=True)
    assert "draw" not in summary["dropped"]
    assert summary["nodes"]["draw"]["reused"] == 2
    run(fixed, tmp_path / "fresh")
    assert ledger_bytes(tmp_path) == ledger_bytes(tmp_path / "fresh")


def fingerprint(dag: Dag, node: str) -> str:
    from gristmill.dags.engine.fingerprint import fingerprints

    return fingerprints(dag)[node]


def fingerprint_folder(out: Path, node: str) -> Path:
    return next((out / "nodes").glob(f"{node}-*"))


def test_a_second_writer_is_refused_before_a_row_is_read_and_ray_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(engine, "make_runner", lambda *given: started.append("a runner"))
    monkeypatch.setattr(engine, "ScanOperator", lambda *given: started.append("a scan"))
    with run_lock(Folder(str(tmp_path))), pytest.raises(RunLockedError, match="being written by"):
        run(toy(), tmp_path, runner="ray")
    assert not started


def test_who_loses_its_lock_commits_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERM, "0.3")
    out = Folder(f"memory://{uuid.uuid4().hex}")
    other = Holder(host="pod-2", pid=17, since="now", token="x").stored()
    draw = ToyDraw.map

    def draw_and_lose(stage: ToyDraw, table: pa.Table) -> Any:
        yield from draw(stage, table)
        out.write_bytes("run.lock", other)
        for thread in threading.enumerate():
            if thread.name == "lease":
                thread.join()

    monkeypatch.setattr(ToyDraw, "map", draw_and_lose)
    options = RunOptions(runner="local", supervision=HERE)
    with pytest.raises(RunLockedError, match="taken over by process 17 on pod-2"):
        execute(toy(), out.url, options, make_progress(plain=True))
    committed = [name for name in out.walk("nodes") if "/draw-" in name and name.endswith(".json")]
    assert len(committed) == 1
    assert out.read_bytes("run.lock") == other
    # Without a lock nobody asks.
    unlocked = dataclasses.replace(options, lock=False)
    assert execute(toy(), out.url, unlocked, make_progress(plain=True))["ledger_ok"]


def test_a_ledger_that_does_not_add_up_fails_the_run(tmp_path: Path) -> None:
    run(toy(), tmp_path)
    folder = Folder(str(fingerprint_folder(tmp_path, "bright")))
    record = PartStore(folder).need(1).stored()
    assert record["rows_out"] == 14
    # A defect that writes what is not so.
    write_sealed(folder, "000001.json", record | {"rows_out": 13})
    with pytest.raises(LedgerError, match="node 'bright': 35 in"):
        run(toy(), tmp_path)


def test_a_run_lives_on_any_fsspec_file_system(tmp_path: Path) -> None:
    out = "memory://engine-test/run"
    dag = toy()
    summary = execute(
        dag, out, RunOptions(runner="local", supervision=HERE), make_progress(plain=True)
    )
    run(dag, tmp_path)
    folder = Folder(out)
    assert summary["ledger_ok"]
    assert [folder.read_bytes(f"ledger/{name}") for name in folder.names("ledger")] == ledger_bytes(
        tmp_path
    )


def test_no_part_waits_for_another_one_s_memory() -> None:
    assert blocks([10] * 600) == [[*range(256)], [*range(256, 512)], [*range(512, 600)]]
    big = 120 * 2**20
    assert blocks([big, big, 5, big]) == [[0], [1, 2], [3]]


def test_rules_that_drop_all_or_nothing_warn(tmp_path: Path, capsys: Any) -> None:
    run(toy(rules={"all": "length > 0", "none": "length > 99"}), tmp_path)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "rule 'all' drops all 35 rows" in text
    assert "rule 'none' drops nothing" in text


def test_options_change_nothing_that_is_written(tmp_path: Path) -> None:
    dag = toy(part_rows=7)
    run(dag, tmp_path / "a")
    dag = dataclasses.replace(dag, part_rows=13)
    run(dag, tmp_path / "b")
    columns = ["uid", "verdict", "node", "reason", "value"]
    key = [("row", "ascending")]
    first, second = (ledger(tmp_path / name).sort_by(key).select(columns) for name in "ab")
    assert first.equals(second), "the part size decides nothing"
