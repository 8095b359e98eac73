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
import errno
import hashlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Roots of modules that take long to import and do nothing but that when imported. Code of users
# is none of them: it changes while the server lives.
_PRELOADED = frozenset(
    (
        *("gristmill", "numpy", "scipy", "pyarrow", "fsspec", "duckdb", "cloudpickle", "pydantic"),
        *("cv2", "PIL", "av", "scenedetect", "albumentations", "albucore", "aiohttp", "faiss"),
        *("torch", "torchvision", "open_clip", "timm", "tokenizers"),
    )
)
# Distribution -> what is imported of it.
_MODULES = {
    "torch": ("torch",),
    "open_clip_torch": ("open_clip",),
    "tokenizers": ("tokenizers",),
    "opencv-python-headless": ("cv2",),
    "img2dataset": ("albumentations",),
    "av": ("av",),
    "scenedetect-headless": ("scenedetect",),
    "faiss-cpu": ("faiss",),
}
# What libraries and the interpreter look at when they are loaded, and never again.
_READ_ONCE = (
    *("LD_", "PYTHON", "MALLOC_", "ARROW_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "OPENCV_"),
    *("TORCH", "PYTORCH_", "NO_ALBUMENTATIONS"),
)
# Of these, what is looked at whenever it is needed; Ray and torch set it by themselves.
_READ_LATER = frozenset({"PYTHONBREAKPOINT", "TORCHINDUCTOR_CACHE_DIR"})
# Whatever is imported before a fork takes no longer.
_START_S = 600.0
# What a C int holds.
_LONGEST_MS = 2**31 - 1
SIZE = struct.Struct("<I")
# A process id, and then how it ended.
NUMBER = struct.Struct("<i")


@dataclass(frozen=True)
class Request:
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
        if self._status >= 0 and ready([self._status], timeout_s):
            data = os.read(self._status, NUMBER.size)
            self._close()
            if data:
                self._code = os.waitstatus_to_exitcode(NUMBER.unpack(data)[0])
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
    def start(cls, module: str, listener: socket.socket | None = None) -> ForkServer:
        """A new server; `module` is what it runs. With `listener` it serves who connects there as
        well, and does not end with this process."""
        ours, theirs = socket.socketpair()
        fds = [theirs.fileno(), *([listener.fileno()] if listener is not None else [])]
        for fd in fds:
            os.set_inheritable(fd, True)
        pid = os.posix_spawn(
            sys.executable,
            # It looks for modules where this process does, in that order.
            [sys.executable, "-P", "-m", module, *map(str, fds)],
            dict(os.environ) | {"PYTHONPATH": os.pathsep.join(_search_path())},
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        )
        theirs.close()
        if listener is not None:
            # It goes on as nobody's child; what was started ends at once.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            pid = 0
        return cls(ours, pid)

    @classmethod
    def reach(cls, module: str) -> ForkServer:
        """The server that this process shares with others, see `share`; else a new one."""
        if not _shared:
            return cls.start(module)
        # The same interpreter, libraries and search path, and the same person.
        key = [_shared, str(os.getuid()), sys.executable, *_search_path()]
        key += [f"{name}={value}" for name, value in sorted(_read_once().items())]
        address = "\0gristmill-" + hashlib.sha256("\n".join(key).encode()).hexdigest()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(address)
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
            requests = socket.socket(socket.AF_UNIX)
            requests.connect(address)
            # Such an address is open to everybody on the machine.
            if uid_of(requests) != os.getuid():
                requests.close()
                return cls.start(module)
            return cls(requests)
        with listener:
            return cls.start(module, listener)

    @property
    def fits(self) -> bool:
        """Whether it is this very process's, and its libraries are loaded as they would be now."""
        return self._owner == os.getpid() and self._environment == _read_once()

    def fork(
        self, connection: int, life: int, environment: Mapping[str, str], modules: Iterable[str]
    ) -> Forked:
        """A new child, with two open files of this process; `modules` are imported before it is
        made. Raises `OSError` if the server is gone."""
        status_read, status_write = os.pipe()
        try:
            request = pickle.dumps(
                Request(
                    os.getcwd(),
                    {**os.environ, **environment},
                    tuple(_search_path()),
                    tuple(modules),
                )
            )
            fds = [connection, life, status_write, *_standard_streams()]
            socket.send_fds(self._requests, [SIZE.pack(len(request))], fds)
            self._requests.sendall(request)
        except OSError:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        if not ready([status_read], _START_S):
            os.close(status_read)
            raise TimeoutError(f"the fork server did not answer for {_START_S:g} s")
        pid = os.read(status_read, NUMBER.size)
        if not pid:
            os.close(status_read)
            raise ConnectionError("the fork server was killed")
        return Forked(NUMBER.unpack(pid)[0], status_read)

    def close(self) -> None:
        """Ask no more; it ends when nobody can ask, and its last child has ended."""
        self._requests.close()
        if self._pid:
            _closed.add(self._pid)


def ready(fds: Iterable[int], timeout_s: float | None = None) -> list[int]:
    """The open files that can be read, waited for; `select` knows no number above 1,023.

    A wait that `poll` cannot count, above some 24 days, has no end.
    """
    waiting = select.poll()
    for fd in fds:
        waiting.register(fd, select.POLLIN)
    limit = None if timeout_s is None else max(timeout_s, 0.0) * 1000
    return [fd for fd, _ in waiting.poll(None if limit is None or limit > _LONGEST_MS else limit)]


def _read_once() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_READ_ONCE) and name not in _READ_LATER
    }


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
_shared = ""
# Those before it, until they have ended.
_closed: set[int] = set()
# What children of this process had imported when they were ready, in the order of their imports.
_learned: dict[str, None] = {}


def fork(
    module: str,
    connection: int,
    life: int,
    environment: Mapping[str, str],
    modules: Iterable[str] = (),
) -> Forked:
    """A child of this process's server, see `ForkServer.fork`; a server is started if need be."""
    global _server
    with _lock:
        _reap_closed()
        for last in (False, True):
            if _server is None or not _server.fits:
                if _server is not None:
                    _server.close()
                _server = ForkServer.reach(module)
            try:
                return _server.fork(connection, life, environment, [*_learned, *modules])
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


def share(name: str) -> None:
    """Have all processes of this machine that say the same name share one server: it imports once,
    and its memory is there once. For workers that come and go beside each other."""
    global _shared
    _shared = name


def adopt(requests: socket.socket) -> None:
    """In a child just forked: its own children come from the server that it came from."""
    global _server
    _server = ForkServer(requests)


def uid_of(connected: socket.socket) -> int:
    """Who is at the other end."""
    size = struct.calcsize("3i")
    peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", peer)[1])


def learn(modules: Iterable[str]) -> None:
    """Have the server import these before it forks again."""
    with _lock:
        _learned.update(dict.fromkeys(modules))


def modules_of(libraries: Iterable[str]) -> list[str]:
    """The modules of distributions that take long to import."""
    return [name for each in libraries for name in _MODULES.get(each, ())]


def imported() -> list[str]:
    """The modules of this process that a server may import beforehand."""
    return [name for name in list(sys.modules) if name.partition(".")[0] in _PRELOADED]
