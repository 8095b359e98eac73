"""A process that has imported what children need, and forks one in milliseconds.

Starting Python and importing torch, Arrow and the like takes a child seconds of processor, several
times what its first rows take; a run has a child an operator and worker, and each that a bad row
kills is replaced. So a process with children has one server, started with its first child: it forks
the others, and imports beforehand what former children were seen to need. What it imported they
also share in memory.

Children have children of their own (a download decodes in one) from the same server, which runs
nothing itself: no model, no user's code, no thread of Python's. Folder, environment, search path
and standard streams of a child are those that its parent has when it asks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

# Roots of modules that take long to import and do nothing but that when imported. Code of users
# is none of them: it changes while the server lives.
_PRELOADED = frozenset(
    (
        *("gristmill", "numpy", "scipy", "pyarrow", "fsspec", "duckdb", "cloudpickle", "pydantic"),
        *("cv2", "PIL", "av", "scenedetect", "albumentations", "albucore", "aiohttp", "faiss"),
        *("torch", "torchvision", "open_clip", "timm", "tokenizers"),
    )
)
# What libraries and the interpreter look at when they are loaded, and never again.
_READ_ONCE = (
    *("LD_", "PYTHON", "MALLOC_", "ARROW_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "OPENCV_"),
    *("TORCH", "PYTORCH_", "NO_ALBUMENTATIONS"),
)
_SIZE = struct.Struct("<I")
# A process id, and then how it ended.
_NUMBER = struct.Struct("<i")


@dataclass(frozen=True)
class _Request:
    """What a child takes over from the process that asks for it."""

    cwd: str
    environment: dict[str, str]
    path: tuple[str, ...]
    # To be imported before the fork.
    modules: tuple[str, ...]


class Forked:
    """A child of the server, as seen by the process that asked for it."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        # Read end of a pipe on which the server says how the child ended.
        self._status = status
        self._code: int | None = None
        # The server was killed.
        self._forgotten = False

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        # Until the server has told of its end, the number is this child's and nobody else's.
        if self.wait(0.0) is None and not self._forgotten:
            self.send_signal(signal.SIGKILL)
            self.wait(None)
        self._close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, from whatever thread."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout_s: float | None) -> int | None:
        """Its return code, negative for a signal; None if it has not ended by then, or nobody can
        know because the server was killed."""
        if self._status >= 0 and select.select([self._status], [], [], timeout_s)[0]:
            data = os.read(self._status, _NUMBER.size)
            self._close()
            if data:
                self._code = os.waitstatus_to_exitcode(_NUMBER.unpack(data)[0])
            else:
                # Nobody waits for it any more, so the number stays its own only as long as it runs.
                self._forgotten = True
                self.send_signal(signal.SIGKILL)
        return self._code

    def _close(self) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def __del__(self) -> None:
        self._close()


class ForkServer:
    """The way from this process to its server: the other end of `requests`."""

    def __init__(self, requests: socket.socket, pid: int = 0) -> None:
        self._requests, self._pid = requests, pid
        self._environment, self._owner = _read_once(), os.getpid()

    @classmethod
    def start(cls, module: str) -> ForkServer:
        """A new server; `module` is what it runs."""
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        pid = os.posix_spawn(
            sys.executable,
            # It looks for modules where this process does, in that order.
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            dict(os.environ) | {"PYTHONPATH": os.pathsep.join(_search_path())},
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        )
        theirs.close()
        return cls(ours, pid)

    @property
    def fits(self) -> bool:
        """Whether it is this very process's, and its libraries are loaded as they would be now."""
        return self._owner == os.getpid() and self._environment == _read_once()

    def fork(self, connection: int, life: int, modules: Iterable[str]) -> Forked:
        """A new child, with two open files of this process; `modules` are imported before it is
        made. Raises `OSError` if the server is gone."""
        status_read, status_write = os.pipe()
        try:
            request = pickle.dumps(
                _Request(os.getcwd(), dict(os.environ), tuple(_search_path()), tuple(modules))
            )
            fds = [connection, life, status_write, *_standard_streams()]
            socket.send_fds(self._requests, [_SIZE.pack(len(request))], fds)
            self._requests.sendall(request)
        except OSError:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        pid = os.read(status_read, _NUMBER.size)
        if not pid:
            os.close(status_read)
            raise ConnectionError("the fork server was killed")
        return Forked(_NUMBER.unpack(pid)[0], status_read)

    def close(self) -> None:
        """Ask no more; it ends when nobody can ask, and its last child has ended."""
        self._requests.close()
        if self._pid:
            _closed.add(self._pid)


def _read_once() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_ONCE)}


def _search_path() -> list[str]:
    return [entry or os.getcwd() for entry in sys.path]


def _standard_streams() -> list[int]:
    """Standard output and error, if both are open."""
    try:
        os.fstat(1), os.fstat(2)
    except OSError:
        return []
    return [1, 2]


_lock = threading.Lock()
_server: ForkServer | None = None
# Those before it, until they have ended.
_closed: set[int] = set()
# What children of this process had imported when they were ready, in the order of their imports.
_learned: dict[str, None] = {}


def fork(module: str, connection: int, life: int) -> Forked:
    """A child of this process's server, see `ForkServer.fork`; a server is started if need be."""
    global _server
    with _lock:
        _reap_closed()
        for last in (False, True):
            if _server is None or not _server.fits:
                if _server is not None:
                    _server.close()
                _server = ForkServer.start(module)
            try:
                return _server.fork(connection, life, _learned)
            except OSError:
                _server.close()
                _server = None
                if last:
                    raise
    raise AssertionError("either returns or raises")


@atexit.register
def _leave() -> None:
    """The server sees it anyway; Python would warn of a socket left open."""
    if _server is not None:
        _server.close()


def _reap_closed() -> None:
    for pid in list(_closed):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _closed.discard(pid)
        except ChildProcessError:
            _closed.discard(pid)


def learn(modules: Iterable[str]) -> None:
    """Have the server import these before it forks again."""
    with _lock:
        _learned.update(dict.fromkeys(modules))


def imported() -> list[str]:
    """The modules of this process that a server may import beforehand."""
    return [name for name in list(sys.modules) if name.partition(".")[0] in _PRELOADED]


# -- in the server ---------------------------------------------------------------------------------


def serve_forks(requests: socket.socket, child: Callable[[int, int], None]) -> None:
    """Fork children that do `child(connection, life)`, until nobody is left who could ask: the
    process that started this one, or a child, which has children by the same server."""
    # pid -> where its end is told.
    children: dict[int, int] = {}
    askers = {requests.fileno(): requests}
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while askers or children:
        ready = select.select([woken, *askers], [], [])[0]
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        _reap(children)
        for asker in set(ready) & set(askers):
            received = _receive(askers[asker])
            if received is None:
                askers.pop(asker).close()
                continue
            request, fds = received
            _preload(request.modules)
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                for other in (ours, *askers.values()):
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


def _receive(requests: socket.socket) -> tuple[_Request, list[int]] | None:
    header, fds, _, _ = socket.recv_fds(requests, _SIZE.size, 5)
    if not header:
        return None
    size, data = _SIZE.unpack(header)[0], b""
    while len(data) < size:
        data += requests.recv(size - len(data))
    return pickle.loads(data), fds


def _preload(modules: Iterable[str]) -> None:
    for name in modules:
        if name not in sys.modules:
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
        os.write(fd, _NUMBER.pack(number))


def _be_child(
    request: _Request,
    fds: list[int],
    requests: socket.socket,
    child: Callable[[int, int], None],
) -> NoReturn:
    """Do what this process was forked for, and end."""
    global _server
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
        _server = ForkServer(requests)
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
