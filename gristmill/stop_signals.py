"""SIGTERM taken as Ctrl-C is, while a command runs: what is held is given back on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

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
