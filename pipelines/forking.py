"""Within the fork server (`fork_server.py` has the processes that ask it): children are made, told
what they take over, and their ends are told to who asked."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from gristmill.pipelines.fork_server import NUMBER, SIZE, Request, adopt, ready, uid_of


def serve_forks(
    requests: socket.socket,
    child: Callable[[int, int], None],
    listener: socket.socket | None = None,
) -> None:
    """Fork children that do `child(connection, life)`, until nobody is left who could ask: the
    process that started this one, those that connected to `listener`, or a child, which has
    children by the same server."""
    # pid -> where its end is told.
    children: dict[int, int] = {}
    askers = {requests.fileno(): requests}
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while askers or children:
        doors = [listener.fileno()] if listener is not None else []
        found = ready([woken, *askers, *doors])
        if listener is not None and listener.fileno() in found:
            came = listener.accept()[0]
            if uid_of(came) == os.getuid():
                askers[came.fileno()] = came
            else:
                came.close()
            continue
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        _reap(children)
        for asker in set(found) & set(askers):
            received = _receive(askers[asker])
            if received is None:
                askers.pop(asker).close()
                continue
            request, fds = received
            _preload(request.modules)
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                for other in (ours, *askers.values(), *([listener] if listener else [])):
                    other.close()
                for fd in (woken, wake, *children.values()):
                    os.close(fd)
                _be_child(request, fds, theirs, child)
            theirs.close()
            askers[ours.fileno()] = ours
            for fd in (*fds[:2], *fds[3:]):
                os.close(fd)
            children[pid] = fds[2]
            _tell(fds[2], pid)


def _receive(requests: socket.socket) -> tuple[Request, list[int]] | None:
    """What is asked; None if who asks is gone, be it in the middle."""
    fds: list[int] = []
    try:
        header, fds, _, _ = socket.recv_fds(requests, SIZE.size, 5)
        if len(header) == SIZE.size and len(fds) >= 3:
            size, data = SIZE.unpack(header)[0], b""
            while len(data) < size and (more := requests.recv(size - len(data))):
                data += more
            if len(data) == size:
                return pickle.loads(data), fds
    except OSError:
        pass
    for fd in fds:
        os.close(fd)
    return None


# Names that were tried: one that cannot be imported is not tried again for each child.
_tried: set[str] = set()


def _preload(modules: Iterable[str]) -> None:
    # It would ask the network for a newer version of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    for name in modules:
        if name not in sys.modules and name not in _tried:
            _tried.add(name)
            # The child that needs it will say what is wrong.
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _reap(children: dict[int, int]) -> None:
    """Tell the ends of those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            fd = children.pop(pid, None)
            if fd is not None:
                _tell(fd, status)
                os.close(fd)


def _tell(fd: int, number: int) -> None:
    """Who asked may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, NUMBER.pack(number))


def _be_child(
    request: Request,
    fds: list[int],
    requests: socket.socket,
    child: Callable[[int, int], None],
) -> NoReturn:
    """Do what this process was forked for, and end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection, life, status, *streams = fds
        os.close(status)
        for fd, standard in zip(streams, (1, 2), strict=False):
            os.dup2(fd, standard)
            os.close(fd)
        with contextlib.suppress(OSError):
            os.chdir(request.cwd)
        os.environ.clear()
        os.environ.update(request.environment)
        sys.path[:] = request.path
        importlib.invalidate_caches()
        adopt(requests)
        if "numpy" in sys.modules:
            # As if it had been imported here: no two children draw the same.
            sys.modules["numpy"].random.seed()
        child(connection, life)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
