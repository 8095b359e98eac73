"""A supervised child process that serves one object, so that a bad row cannot take the worker
with it.

Foreign bytes crash decoders, hang them, and make them eat memory. A `Child` runs the object in a
process of its own; every call has a deadline, the process may have a memory limit, and it dies
with its parent, however the parent dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cloudpickle

from gristmill import errors
from gristmill.errors import GristmillError, RunError, WorkerError
from gristmill.pipelines import heartbeat
from gristmill.pipelines.fork_server import Forked, fork, imported, learn, ready
from gristmill.pipelines.forking import serve_forks
from gristmill.pipelines.lazy_pandas import defer_pandas

_LENGTH = struct.Struct("<Q")


class ChildDied(RunError):
    """The child process ended in the middle of a call (crash, kill, memory)."""


class ChildSilent(RunError):
    """The child said nothing for longer than the deadline; it has been killed."""


class Stopped(BaseException):
    """The work was called off while a child was asked. Nothing that handles failures of rows or of
    workers may take it for one."""


class Child:
    """Serves the object that `factory()` returns. The process starts at the first call.

    `factory` is pickled by name where it can be imported, else by value; its arguments by value:
    `functools.partial(Resizer, 256)`. `memory_gb` limits the address space beyond what the object
    holds after it was built; `environment` is added to this process's own; `modules` are those it
    is going to import, as far as that takes long. An exception raised by the object is raised here:
    one of ours as it is, any other as `WorkerError` with the child's traceback.
    """

    def __init__(
        self,
        factory: Callable[[], object],
        *,
        memory_gb: float | None = None,
        environment: Mapping[str, str] | None = None,
        modules: Iterable[str] = (),
    ) -> None:
        self._factory = factory
        self._modules = tuple(modules)
        self._environment = dict(environment or {})
        self._memory_gb = memory_gb
        self._process: Forked | None = None
        self._socket: socket.socket | None = None
        self._life: int = -1
        self._stopped = threading.Event()
        # What is handed the heartbeats of calls, on the way to their results.
        self.on_beat: Callable[[heartbeat.Heartbeat], None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while one runs."""
        return self._process.pid if self._process else None

    def start(self, deadline_s: float = 600.0) -> None:
        """Start the process and build the object; done by the first call otherwise."""
        if self._stopped.is_set():
            raise Stopped
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        life_read, self._life = os.pipe()
        try:
            self._process = fork(
                __name__, theirs.fileno(), life_read, self._environment, self._modules
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            self._life = -1
            raise ChildDied(f"no child can be started: {error}") from error
        finally:
            theirs.close()
            os.close(life_read)
        self._socket = ours
        if self._stopped.is_set():
            self.kill()
            raise Stopped
        try:
            # By value what lies in no module: stages typed into a notebook or a script.
            payload = cloudpickle.dumps((self._factory, self._memory_gb), protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.kill()
            raise WorkerError(
                f"{self._factory!r} cannot be sent to a child process ({error}); "
                "open what it holds in prepare(), or run with --debug"
            ) from error
        self._send(payload)
        # What it had to import to be ready, the next one finds imported.
        for modules in self._replies(deadline_s):
            learn(modules)

    def call(self, method: str, *args: object, deadline_s: float) -> Any:
        """Call a method and return its result. Raises `ChildDied` or `ChildSilent` if none
        comes."""
        items = list(self.stream(method, *args, silence_s=deadline_s, generator=False))
        return items[0]

    def stream(
        self, method: str, *args: object, silence_s: float, generator: bool = True
    ) -> Iterator[Any]:
        """Yield what a generator method yields. `silence_s` bounds the wait for each item."""
        self.start()
        self._send(pickle.dumps((method, args, generator), protocol=5))
        yield from self._replies(silence_s)

    def kill(self) -> None:
        """End the process at once. The next call starts a new one."""
        if self._process is not None:
            self._process.kill()
        if self._socket is not None:
            self._socket.close()
        if self._life >= 0:
            os.close(self._life)
        self._process, self._socket, self._life = None, None, -1

    close = kill

    def stop(self) -> None:
        """Have a call that another thread is in, and all that come, raise `Stopped`."""
        self._stopped.set()
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGKILL)

    def _send(self, payload: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.settimeout(None)
            self._socket.sendall(_LENGTH.pack(len(payload)) + payload)
        except OSError as error:
            raise self._died() from error

    def _replies(self, silence_s: float) -> Iterator[Any]:
        deadline = time.monotonic() + silence_s
        while True:
            kind, value = pickle.loads(self._receive(deadline, silence_s))
            if kind == "beat":
                # Said on the way: no answer, and no reason to wait longer.
                if self.on_beat is not None:
                    self.on_beat(value)
                continue
            if kind == "done":
                return
            if kind == "refused":
                name, message = value
                raise getattr(errors, name, WorkerError)(message)
            if kind == "error":
                raise WorkerError(f"a stage raised in its child process:\n{value}")
            yield value
            deadline = time.monotonic() + silence_s

    def _receive(self, deadline: float, silence_s: float) -> bytes:
        header = self._exactly(_LENGTH.size, deadline, silence_s)
        return self._exactly(_LENGTH.unpack(header)[0], deadline, silence_s)

    def _exactly(self, size: int, deadline: float, silence_s: float) -> bytes:
        assert self._socket is not None
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size:
            wait = deadline - time.monotonic()
            if wait <= 0 or not ready([self._socket.fileno()], wait):
                self.kill()
                raise ChildSilent(f"no answer for {silence_s:g} s")
            try:
                count = self._socket.recv_into(view[got:])
            except OSError as error:
                raise self._died() from error
            if count == 0:
                raise self._died()
            got += count
        return bytes(buffer)

    def _died(self) -> ChildDied:
        """What a connection that is closed means."""
        code: int | None = None
        if self._process is not None:
            code = self._process.wait(5.0)
        self.kill()
        if self._stopped.is_set():
            raise Stopped
        if code is None:
            return ChildDied("killed, by whom nobody knows")
        if code < 0:
            return ChildDied(f"killed by {signal.Signals(-code).name}")
        return ChildDied(f"exited with status {code}")

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.kill()


def _die_with(life: int) -> None:
    """Have the kernel end this process when the other end of the pipe closes, that is when the
    parent ends. A watching thread would not do: a decoder that hangs may hold the interpreter's
    lock."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        if os.read(life, 1) == b"":
            os._exit(1)


def _limit_memory(memory_gb: float) -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    limit = held + int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(connection: socket.socket) -> None:
    """Serve calls until the parent closes the connection."""

    def send(kind: str, value: object) -> None:
        payload = pickle.dumps((kind, value), protocol=5)
        connection.sendall(_LENGTH.pack(len(payload)))
        connection.sendall(payload)

    def receive() -> Any:
        with connection.makefile("rb") as file:
            while header := file.read(_LENGTH.size):
                yield pickle.loads(file.read(_LENGTH.unpack(header)[0]))

    messages = receive()
    factory, memory_gb = next(messages)
    heartbeat.listen(lambda beat: send("beat", beat))
    try:
        served = factory()
        if memory_gb is not None:
            _limit_memory(memory_gb)
        send("item", imported())
        send("done", None)
    except GristmillError as error:
        send("refused", (type(error).__name__, str(error)))
        return
    except BaseException:
        send("error", traceback.format_exc())
        return
    for method, args, generator in messages:
        try:
            result = getattr(served, method)(*args)
            for item in result if generator else (result,):
                send("item", item)
            send("done", None)
        except GristmillError as error:
            # The message says it all; where it was raised is nobody's business.
            send("refused", (type(error).__name__, str(error)))
        except Exception:
            send("error", traceback.format_exc())


def _child(connection: int, life: int) -> None:
    """What a fork of the server does."""
    _die_with(life)
    with socket.socket(fileno=connection) as served, contextlib.suppress(BrokenPipeError):
        _serve(served)


def _main() -> None:
    # Ctrl-C goes to the whole terminal group, SIGTERM often to that of a job; the parent decides
    # when the child stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    defer_pandas()
    with contextlib.ExitStack() as stack:
        requests, *listeners = [
            stack.enter_context(socket.socket(fileno=int(fd))) for fd in sys.argv[1:]
        ]
        if listeners:
            # No child of who started it: others go on when that ends.
            if os.fork():
                os._exit(0)
            os.setsid()
        serve_forks(requests, _child, *listeners)


if __name__ == "__main__":
    _main()
