"""Ctrl-C and SIGTERM stop a command in the same way: cleanly, with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from command import gristmill
from toy_run import toy_dag
from toy_stages import ToyLength

from gristmill.dags import session
from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.engine.run_lock import lock_holder
from gristmill.pipelines.storage import Folder
from gristmill.stop_signals import stopped_by_sigterm

STOPPED = "stopped; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=("Ctrl-C", "SIGTERM")
)
def test_a_signal_ends_a_command_with_one_line(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # A shell that starts tests in the background has them ignore it.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    given_back = []

    def work(*given: object, **named: object) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            # To the process, and to its group: the second must not end the way out.
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)
            given_back.append(True)

    monkeypatch.setattr(session, "write_report", work)
    try:
        ended = gristmill("report", "a-run")
    finally:
        signal.signal(signal.SIGINT, interrupted)
    assert (ended.returncode, ended.stderr, given_back) == (code, STOPPED, [True])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_that_may_set_no_handler_sets_none() -> None:
    before, codes = signal.getsignal(signal.SIGTERM), []

    def command() -> None:
        with stopped_by_sigterm() as stops:
            codes.append((signal.getsignal(signal.SIGTERM) is before, stops.exit_code))

    thread = threading.Thread(target=command)
    thread.start()
    thread.join()
    assert codes == [(True, 130)]


def test_ray_does_not_take_sigterm_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from gristmill.dags.engine.on_ray import RayRunner

    def init(**options: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with RayRunner():
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_terminated_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    """The signal goes to the whole group, as from Slurm and Ray Jobs: the children die with the
    driver, and not before it."""
    out = tmp_path / "run"
    dag = tmp_path / "dag.yaml"
    dag.write_text(dump_dag(toy_dag(length=ToyLength(hangs=("picture 4",)))))
    command = [sys.executable, "-m", "gristmill", "run", str(dag), "--out", str(out),
               "--runner", "local", "--plain"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONPATH": os.path.dirname(__file__)},
    ) as driver:  # fmt: skip
        assert driver.stderr is not None
        assert any("length: start" in line for line in driver.stderr)
        assert f"process {driver.pid} " in str(lock_holder(Folder(str(out))))
        # The fork server, and a child that hangs.
        while len(family := psutil.Process(driver.pid).children(recursive=True)) < 2:
            assert driver.poll() is None
        os.killpg(driver.pid, signal.SIGTERM)
        driver.wait(60)
        assert driver.stderr.readlines()[-1] == STOPPED
    assert driver.returncode == 143
    assert family and not psutil.wait_procs(family, timeout=10)[1]
    assert lock_holder(Folder(str(out))) is None
