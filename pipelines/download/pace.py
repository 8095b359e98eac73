"""When a host may be asked next: whoever asks hosts for pictures asks here first.

Who keeps the pace is the engine's business: by default this process, for itself; in a run whose
hosts have a rate, one keeper for all workers of all nodes. A stage finds it by a variable of its
environment, and asks over a Unix socket: stages run in children that know nothing of a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypedDict, runtime_checkable

import yarl

# Where the pace of this run is kept, "\0" left out; unset: in each process.
ADDRESS = "GRISTMILL_PACE"
# Hosts that are remembered before those that may be asked are forgotten.
_REMEMBERED = 100_000
# A keeper answers at once, or within a few tries of asking another machine.
_ANSWER_S = 60.0
# Seconds for which a host without a rate is not asked about again.
_TRUSTED_S = 1.0


class Pace(Protocol):
    """Who may ask which host when."""

    def take(self, host: str, interval_s: float) -> float:
        """0: the caller may ask now, and the next one `interval_s` later. Else nothing was taken,
        and in so many seconds it is worth asking again."""

    def pause(self, host: str, seconds: float) -> None:
        """Nobody may ask the host for so long."""


class PaceRequest(TypedDict):
    """What is said to a keeper, as a line of JSON; it answers by a number."""

    call: str
    host: str
    seconds: float


class PaceLost(OSError):
    """Nobody keeps the pace any more."""


@runtime_checkable
class Paced(Protocol):
    """A stage that asks hosts at a pace which all its workers share."""

    def is_paced(self) -> bool:
        """Whether its settings ask for that."""


def host_key(url: yarl.URL) -> str:
    """Whose pace a URL is asked at: its host, and a port where none of the web's usual two."""
    host = (url.raw_host or "").lower()
    return host if url.port in (80, 443) else f"{host}:{url.port}"


class LocalPace:
    """The pace of one process, or of all who ask it. Safe to be asked from threads.

    `held`: it takes the place of one whose memory is lost, so each host waits for once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, held: bool = False) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._born = clock() if held else None
        # Host -> when it may be asked next.
        self._free: dict[str, float] = {}

    def take(self, host: str, interval_s: float) -> float:
        """Take the next turn at a host, if it is now."""
        with self._lock:
            now = self._clock()
            free = self._free.get(host)
            if free is None and self._born is not None:
                free = self._born + interval_s
            if free is not None and free > now:
                return free - now
            if interval_s > 0:
                # Never sooner, even after one that came late.
                self._free[host] = now + interval_s
                self._forget(now)
            else:
                self._free.pop(host, None)
            return 0.0

    def pause(self, host: str, seconds: float) -> None:
        """Have a host left alone."""
        with self._lock:
            now = self._clock()
            self._free[host] = max(self._free.get(host, now), now + seconds)

    @property
    def is_kept(self) -> bool:
        """Whether any host is to be left alone, or was until lately."""
        return bool(self._free)

    def is_paused(self, host: str) -> bool:
        """Whether it may not be asked now."""
        free = self._free.get(host)
        return free is not None and free > self._clock()

    def _forget(self, now: float) -> None:
        if len(self._free) > _REMEMBERED:
            self._free = {host: free for host, free in self._free.items() if free > now}


class SocketPace:
    """The pace that another process of this machine keeps, or passes on."""

    def __init__(self, address: str) -> None:
        self._address, self._lock = address, threading.Lock()
        self._socket: socket.socket | None = None
        # Hosts without a rate, and until when nothing new is to be heard of them.
        self._trusted: dict[str, float] = {}

    def take(self, host: str, interval_s: float) -> float:
        """Take the next turn at a host, if it is now. Raises `PaceLost`."""
        if interval_s <= 0:
            now = time.monotonic()
            if self._trusted.get(host, 0.0) > now:
                return 0.0
            wait = self._ask({"call": "take", "host": host, "seconds": 0.0})
            if not wait:
                if len(self._trusted) > _REMEMBERED:
                    self._trusted.clear()
                self._trusted[host] = now + _TRUSTED_S
            return wait
        return self._ask({"call": "take", "host": host, "seconds": interval_s})

    def pause(self, host: str, seconds: float) -> None:
        """Have a host left alone. Raises `PaceLost`."""
        self._trusted.pop(host, None)
        self._ask({"call": "pause", "host": host, "seconds": seconds})

    def _ask(self, request: PaceRequest) -> float:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                try:
                    return self._exchange(line)
                except (OSError, ValueError):
                    self._hang_up()
            raise PaceLost("nobody keeps the pace of hosts")

    def _exchange(self, line: bytes) -> float:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(_ANSWER_S)
            self._socket.connect(f"\0{self._address}")
        self._socket.sendall(line)
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self._socket.recv(64)
            if not piece:
                raise PaceLost("the pace of hosts is kept no more")
            answer += piece
        return float(answer)

    def close(self) -> None:
        """Ask no more; another question connects anew."""
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


_here = LocalPace()
# The one asked last, by its address.
_elsewhere: tuple[str, SocketPace] | None = None
_lock = threading.Lock()


def pace_of_process() -> LocalPace | SocketPace:
    """The pace that this process goes by."""
    global _elsewhere
    address = os.environ.get(ADDRESS, "")
    with _lock:
        if _elsewhere is not None and _elsewhere[0] != address:
            # Its run is over.
            _elsewhere[1].close()
            _elsewhere = None
        if not address:
            return _here
        if _elsewhere is None:
            _elsewhere = address, SocketPace(address)
        return _elsewhere[1]
