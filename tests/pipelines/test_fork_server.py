"""A server forks children that have imported what they need, and nobody hangs when it is killed."""

from __future__ import annotations

import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gristmill.pipelines import fork_server, forking
from gristmill.pipelines.child import Child, ChildDied


class Told:
    """Tells what a child finds around itself."""

    def __init__(self) -> None:
        import numpy

        self.drawn = float(numpy.random.rand())

    def around(self) -> tuple[int, str, str | None, list[str]]:
        return os.getppid(), os.getcwd(), os.environ.get("GRISTMILL_TOLD"), sys.path[:1]

    def draw(self) -> float:
        return self.drawn

    def grandchild(self) -> int:
        child = Child(Told)
        found: int = child.call("around", deadline_s=60)[0]
        child.close()
        return found

    def open_files(self) -> int:
        return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def little_to_import(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What other tests' children needed, a new server here need not, and no child of it has."""
    monkeypatch.setattr(fork_server, "_learned", {})
    monkeypatch.setattr(fork_server, "_server", None)
    yield
    if fork_server._server is not None:
        fork_server._server.close()


@pytest.fixture
def two() -> Iterator[tuple[Child, Child]]:
    children = Child(Told), Child(Told)
    for child in children:
        child.start()
    yield children
    for child in children:
        child.close()


def test_a_second_child_is_a_fork_of_the_same_server_and_draws_its_own_numbers(
    two: tuple[Child, Child],
) -> None:
    one, other = (child.call("around", deadline_s=60) for child in two)
    assert one[0] == other[0] != os.getpid()
    assert two[0].call("draw", deadline_s=60) != two[1].call("draw", deadline_s=60)
    files = [child.call("open_files", deadline_s=60) for child in two]
    assert files[0] == files[1], "a child holds nothing of those before it"


def test_a_child_has_its_children_from_the_same_server(two: tuple[Child, Child]) -> None:
    server = two[0].call("around", deadline_s=60)[0]
    assert two[0].call("grandchild", deadline_s=60) == server


def test_who_dies_while_asking_is_done_with() -> None:
    asking, served = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    # The head of a request with its files, and nothing after it.
    socket.send_fds(asking, [fork_server.SIZE.pack(10_000)], [0, 1, 2])
    asking.close()
    with served:
        assert forking._receive(served) is None
        assert len(os.listdir("/proc/self/fd")) == before - 1, "nothing of it stays open"


def test_files_beyond_the_thousandth_are_waited_for(two: tuple[Child, Child]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"{hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    child = Child(Told)
    try:
        assert child.call("around", deadline_s=60)
    finally:
        child.close()
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr("gristmill.pipelines.child.fork", none)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ChildDied, match="no child can be started: no answer"):
        Child(Told).start()
    assert len(os.listdir("/proc/self/fd")) == before


def test_processes_that_share_a_name_share_a_server_which_outlives_the_first() -> None:
    program = (
        "import sys, test_fork_server as t; from gristmill.pipelines import fork_server as f;"
        "f.share('of this test'); c = t.Child(t.Told);"
        "print(c.call('around', deadline_s=60)[0], flush=True); sys.stdin.read()"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def server_of(process: subprocess.Popen[str]) -> int:
        assert process.stdout is not None
        return int(process.stdout.readline())

    with start() as first, start() as second:
        server = server_of(first)
        assert server_of(second) == server
        first.kill()
        with start() as third:
            assert server_of(third) == server, "it is nobody's child"
            second.kill()
            third.kill()
    gone = time.monotonic() + 20
    while os.path.exists(f"/proc/{server}") and time.monotonic() < gone:
        os.sched_yield()
    assert not os.path.exists(f"/proc/{server}"), "and ends with the last who could ask"


def test_folder_environment_and_search_path_are_those_of_now(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, two: tuple[Child, Child]
) -> None:
    before = two[0].call("around", deadline_s=60)[0]
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("GRISTMILL_TOLD", "now")
    monkeypatch.syspath_prepend(str(tmp_path))
    child = Child(Told)
    server, folder, told, path = child.call("around", deadline_s=60)
    child.close()
    assert (server, folder, told, path) == (before, str(tmp_path), "now", [str(tmp_path)])


def test_what_libraries_read_once_makes_a_new_server(
    monkeypatch: pytest.MonkeyPatch, two: tuple[Child, Child]
) -> None:
    before = two[0].call("around", deadline_s=60)[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    child = Child(Told)
    after = child.call("around", deadline_s=60)[0]
    child.close()
    assert after != before
    assert two[0].call("around", deadline_s=60)[0] == before, "children of the former live on"


def test_what_ray_and_torch_set_by_themselves_makes_none(
    monkeypatch: pytest.MonkeyPatch, two: tuple[Child, Child]
) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")
    child = Child(Told)
    after = child.call("around", deadline_s=60)[0]
    child.close()
    assert after == two[0].call("around", deadline_s=60)[0]


def test_what_children_imported_is_imported_before_the_next_fork(two: tuple[Child, Child]) -> None:
    assert "numpy" in fork_server._learned
    assert "gristmill.pipelines.child" in fork_server._learned
    assert not any(name.startswith("test_") for name in fork_server._learned), "no code of users"


def test_a_killed_server_takes_no_run_with_it(two: tuple[Child, Child]) -> None:
    server = two[0].call("around", deadline_s=60)[0]
    os.kill(server, signal.SIGKILL)
    # Its children serve on; the next one gets a new server.
    assert two[1].call("around", deadline_s=60)
    child = Child(functools.partial(Told))
    assert child.call("around", deadline_s=60)[0] != server
    child.close()
    pid = two[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match="killed"):
        two[0].call("around", deadline_s=60)
    two[1].close()
    assert two[1].pid is None


@pytest.mark.parametrize("timeout_s", [None, 1e7, float("inf")])
def test_a_wait_that_poll_cannot_count_has_no_end(timeout_s: float | None) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"x")
        assert fork_server.ready([here.fileno()], timeout_s) == [here.fileno()]
        here.recv(1)
        assert fork_server.ready([here.fileno()], -1) == []
