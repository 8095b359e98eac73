"""How far a stage is within the rows it was handed, for the person who waits; nobody need listen.

A process does one thing at a time, so what is being done and who listens are said once, here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Heartbeat = tuple[str, float]
"""What is being done, and the share of it that is done, 0..1."""

# A model's batch may take milliseconds.
_EVERY_S = 0.2
_listener: Callable[[Heartbeat], None] | None = None
_subject = ""
_told = 0.0


def listen(listener: Callable[[Heartbeat], None] | None) -> None:
    """Have each heartbeat of this process handed to `listener`."""
    global _listener
    _listener = listener


def begin(subject: str) -> None:
    """From now on, `beat` is about this."""
    global _subject, _told
    _subject, _told = subject, time.monotonic()


def beat(done: int, of: int) -> None:
    """`done` of `of` pieces are done; said at most a few times a second."""
    global _told
    now = time.monotonic()
    if _listener is not None and of and now - _told > _EVERY_S:
        _told = now
        _listener((_subject, done / of))
