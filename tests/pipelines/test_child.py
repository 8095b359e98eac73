"""A child process takes crashes, hangs and memory with it, and dies with its parent."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from gristmill.errors import WorkerError
from gristmill.pipelines.child import Child, ChildDied, ChildSilent


class Served:
    """What a child serves here."""

    def __init__(self, add: int) -> None:
        self.add = add

    def plus(self, number: int) -> int:
        return number + self.add

    def fail(self) -> None:
        raise ValueError("a defect")

    def leave(self) -> None:
        os._exit(3)

    def sleep(self) -> None:
        time.sleep(600)

    def eat(self) -> int:
        return len(bytearray(4 * 2**30))

    def count(self) -> Iterator[int]:
        yield from range(3)


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(functools.partial(Served, 5), memory_gb=1.0)
    yield made
    made.close()


def test_calls_and_streams(child: Child) -> None:
    assert child.call("plus", 3, deadline_s=20) == 8
    assert list(child.stream("count", silence_s=20)) == [0, 1, 2]


def test_an_exception_is_a_defect_with_its_traceback(child: Child) -> None:
    with pytest.raises(WorkerError, match=r"(?s)in fail.*ValueError: a defect"):
        child.call("fail", deadline_s=20)
    assert child.call("plus", 3, deadline_s=20) == 8, "and the child lives on"


def test_a_crash_a_kill_and_a_hang_are_told_apart_and_survived(child: Child) -> None:
    with pytest.raises(ChildDied, match="exited with status 3"):
        child.call("leave", deadline_s=20)
    child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match="killed by SIGKILL"):
        child.call("plus", 1, deadline_s=20)
    child.start()
    with pytest.raises(ChildSilent, match=r"no answer for 0\.2 s"):
        child.call("sleep", deadline_s=0.2)
    assert child.call("plus", 3, deadline_s=20) == 8


def test_memory_beyond_the_limit_is_refused(child: Child) -> None:
    with pytest.raises(WorkerError, match="MemoryError"):
        child.call("eat", deadline_s=20)


def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    program = (
        "import functools, os, test_child as t;"
        "c = t.Child(functools.partial(t.Served, 1)); c.start(); print(c.pid, flush=True);"
        "c.call('sleep', deadline_s=600)"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    gone = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < gone:
        os.sched_yield()
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    # The second: it ended between opening and reading.
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_cannot_be_pickled_is_refused_with_the_remedy() -> None:
    lock = threading.Lock()
    with pytest.raises(WorkerError, match=r"cannot be sent .* in prepare\(\)"):
        Child(lambda: Served(lock)).start()
