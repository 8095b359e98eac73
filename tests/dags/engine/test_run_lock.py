"""One writer a run: locks of files, leases on object stores, and stores that can have none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import FaultyApp, s3_server

from gristmill.dags.engine.lease import TERM, Holder
from gristmill.dags.engine.run_lock import lock_holder, run_lock
from gristmill.errors import ConfigurationError, RunLockedError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.storage import Folder


def some_folder() -> Folder:
    return Folder(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERM, "0.3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyApp]:
    # Of a machine that is busy, not of a store that hangs.
    monkeypatch.setenv(PATIENCE, "30")
    with s3_server() as app:
        yield app


def leave_lease(folder: Folder, holder: Holder | None = None) -> None:
    """As somebody leaves it who was killed."""
    left = holder or Holder(host="pod-1", pid=17, since="2026-11-30T01:02:03+00:00", token="x")
    folder.write_bytes("run.lock", left.stored())


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_second_writer_is_refused_and_told_who_writes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that a busy machine keeps nobody from renewing.
    monkeypatch.setenv(TERM, "3")
    folder = Folder(str(tmp_path)) if place == "disk" else some_folder()
    assert lock_holder(folder) is None
    who = f"process {os.getpid()} on {os.uname().nodename} since 2"
    with run_lock(folder) as held:
        assert who in str(lock_holder(folder))
        with pytest.raises(RunLockedError, match=f"being written by {who}"), run_lock(folder):
            pass
        held.check()
    assert lock_holder(folder) is None
    with run_lock(folder):
        pass


def test_a_lock_of_a_file_stays_while_somebody_looks(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "run.lock").write_text("17\n")
    assert lock_holder(folder) is None
    with run_lock(folder):
        (tmp_path / "run.lock").write_text("17\n")
        assert str(lock_holder(folder)) == "a process that does not say who it is"


def test_the_lease_of_a_killed_process_is_taken_over_after_its_term(short: None) -> None:
    folder = some_folder()
    leave_lease(folder)
    said: list[str] = []
    with run_lock(folder, tell=said.append):
        assert str(os.getpid()) in str(lock_holder(folder))
    assert len(said) == 1
    assert "locked by process 17 on pod-1 since 2026-11-30T01:02:03+00:00" in said[0]


@pytest.mark.parametrize("text", [b"elsewhere:17", b"", b'{"host": 1, "who": 2}'])
def test_a_lock_of_another_version_is_watched_like_any_other(text: bytes, short: None) -> None:
    folder = some_folder()
    folder.write_bytes("run.lock", text)
    with run_lock(folder, tell=lambda text: None):
        pass


def test_the_term_that_counts_is_the_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = some_folder()
    monkeypatch.setenv(TERM, "3")
    with run_lock(folder):
        # Renewed twice a second; who would renew a hundred times must not take that for death.
        monkeypatch.setenv(TERM, "0.05")
        with pytest.raises(RunLockedError), run_lock(folder, tell=lambda text: None):
            pass


def test_who_lost_its_lease_stops_and_leaves_it_to_the_other(short: None) -> None:
    folder = some_folder()
    with (
        pytest.raises(RunLockedError, match="was taken over by process 17 on pod-1"),
        run_lock(folder) as held,
    ):
        leave_lease(folder)
        while True:
            held.check()
    holder = lock_holder(folder)
    assert holder is not None and holder.token == "x"


def test_a_lease_that_was_lost_is_said_at_the_end_of_the_block_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TERM, "0.3")
    folder = some_folder()
    with pytest.raises(RunLockedError, match="taken over"), run_lock(folder):
        leave_lease(folder)
        renewing = next(t for t in threading.enumerate() if t.name == "lease")
        renewing.join()


def test_a_store_that_has_no_conditional_put_needs_no_lock() -> None:
    class Plain(MemoryFileSystem):
        protocol = "plain"

    fsspec.register_implementation("plain", Plain, clobber=True)
    folder = Folder("plain://run")
    with pytest.raises(ConfigurationError, match="--no-lock"), run_lock(folder):
        pass
    with run_lock(folder, lock=False) as held:
        held.check()
    assert lock_holder(folder) is None


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_that_keeps_no_conditions_is_found_out(server: FaultyApp, conditions: str) -> None:
    server.conditions = conditions
    folder = Folder("s3://bucket/run")
    with (
        pytest.raises(ConfigurationError, match=r"no conditional put.*--no-lock"),
        run_lock(folder),
    ):
        pass
    assert not folder.exists("run.lock")


def test_google_s_store_keeps_a_lease_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs")
    from gcs_server import gcs_server

    monkeypatch.setenv(TERM, "3")
    monkeypatch.setenv(PATIENCE, "30")
    with gcs_server(monkeypatch) as objects:
        folder = Folder("gs://bucket/a run")
        objects["bucket/a run/run.lock"] = (7, Holder(host="pod-1", pid=17, token="x").stored())
        with run_lock(folder, tell=lambda text: None):
            assert str(os.getpid()) in str(lock_holder(folder))
            with pytest.raises(RunLockedError), run_lock(folder, tell=lambda text: None):
                pass
        assert lock_holder(folder) is None
        assert list(objects) == ["bucket/a run/run.lock"]


def test_a_term_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERM, "soon")
    with pytest.raises(ConfigurationError, match=f"{TERM}='soon'"), run_lock(some_folder()):
        pass


def test_answers_that_get_lost_lose_no_lease(
    server: FaultyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERM, "0.6")
    folder = Folder("s3://bucket/run")
    server.lose = 2
    for _ in range(3):
        with run_lock(folder) as held:
            begun = server.puts
            while server.puts < begun + 4:
                held.check()
        assert lock_holder(folder) is None
    assert server.faults >= 6


def test_of_two_that_come_together_one_wins_always(
    server: FaultyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERM, "2")
    tries, at_once = 50, 5

    def drive(folder: Folder, start: threading.Barrier, over: threading.Event) -> bool:
        start.wait()
        try:
            with run_lock(folder, tell=lambda text: None) as held:
                # The other is refused while this one is inside, or it never is.
                while not over.wait(0.1):
                    held.check()
            return True
        except RunLockedError:
            return False
        finally:
            over.set()

    with ThreadPoolExecutor(2 * at_once) as pool:
        ends = []
        for number in range(tries):
            shared = (Folder(f"s3://bucket/{number}"), threading.Barrier(2), threading.Event())
            ends.append([pool.submit(drive, *shared) for _ in range(2)])
        won = [sorted(end.result() for end in pair) for pair in ends]
    assert won == tries * [[False, True]]


def test_a_killed_driver_s_successor_goes_on_by_itself(
    server: FaultyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERM, "4")
    code = (
        "from gristmill.dags.engine.run_lock import run_lock\n"
        "from gristmill.pipelines.storage import Folder\n"
        "with run_lock(Folder('s3://bucket/run')):\n"
        "    print('inside', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "inside\n"
        folder = Folder("s3://bucket/run")
        with pytest.raises(RunLockedError, match=f"process {driver.pid} "), run_lock(folder):
            pass
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        with run_lock(folder) as held:
            held.check()


def test_a_lease_of_this_process_that_ended_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERM, "600")
    monkeypatch.setenv(PATIENCE, "0")
    folder, told = some_folder(), []
    pipe = MemoryFileSystem.pipe_file

    def away(*_: object, **__: object) -> None:
        raise OSError("the store is away")

    with pytest.raises(ValueError, match="stop"), run_lock(folder):
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", away)
        raise ValueError("stop")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe)
    assert lock_holder(folder) is not None, "it could not be given back"
    with run_lock(folder, tell=told.append):
        assert told == []
