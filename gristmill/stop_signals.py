"""Signals that ask a process to stop: SIGTERM taken as Ctrl-C is, while a command runs, so that
what is held is given back on the way out; or only noted, where work must come to a good place."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

# Who stops a process often says so twice, to it and to its group.
_TWICE_S = 5.0


@dataclass
class Stops:
    """What has been asked of this process."""

    # Monotonic seconds of the last SIGTERM that was acted on; None: there was none.
    terminated: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler: `KeyboardInterrupt`, so that whoever knows Ctrl-C knows this."""
        now = time.monotonic()
        if self.terminated is None or now - self.terminated > _TWICE_S:
            self.terminated = now
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells have it."""
        return 128 + (signal.SIGINT if self.terminated is None else signal.SIGTERM)


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[Stops]:
    """SIGTERM raises `KeyboardInterrupt` within the block; in the main thread only, where Python
    lets handlers be set."""
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    before = signal.signal(signal.SIGTERM, stops)
    try:
        yield stops
    finally:
        # None: set by something that is not Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""How schedulers say that time is up: SIGUSR1 is Slurm's, as `--signal=USR1@120` asks for."""


@dataclass
class StopRequest:
    """The first of `STOPS` that came; one that comes again, later, does what it did before."""

    # 0: none came.
    number: int = 0
    at: float = 0.0
    # What each signal did before.
    before: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        now = time.monotonic()
        if not self.number:
            self.number, self.at = number, now
        elif now - self.at > _TWICE_S:
            signal.signal(number, self.before[number])
            signal.raise_signal(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block `STOPS` are noted, and nothing is interrupted; in the main thread only,
    where Python lets handlers be set."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    for asked in STOPS:
        before = signal.signal(asked, request)
        request.before[asked] = signal.SIG_DFL if before is None else before
    try:
        yield request
    finally:
        for number, handler in request.before.items():
            signal.signal(number, handler)


def ignore_stops(_: int = 0) -> None:
    """For a child process whose parent decides when it ends: a scheduler signals all processes."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
