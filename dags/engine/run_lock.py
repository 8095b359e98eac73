"""The lock of a run's folder: one writer at a time.

On a file system it is the kernel's lock on `run.lock`, which ends with its process. On an object
store it is a lease (`lease.py`). Parts need no lock: two attempts at one never harm each other. It
is for what is removed and replaced: products, the ledger, selections.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from gristmill.dags.engine.lease import Holder, Lease, no_lock_there, written_by
from gristmill.pipelines.conditional_put import conditional_object
from gristmill.pipelines.storage import Folder

LOCK = "run.lock"
# A look at who holds a lock (`gristmill status`) takes it for a moment.
_TRIES, _WAIT_S = 4, 0.05


class RunLock(Protocol):
    """A lock that is held."""

    def check(self) -> None:
        """Raise `RunLockedError` if it is held no longer."""


@contextlib.contextmanager
def run_lock(
    folder: Folder, *, lock: bool = True, tell: Callable[[str], None] | None = None
) -> Iterator[RunLock]:
    """Hold the lock of a run while the block lasts; `lock=False` takes none.

    `tell` is handed words for a person before another's lease is watched, which takes a while; else
    they go to standard error. Raises `RunLockedError` where somebody else holds the lock, also at
    the end of a block in which it was lost; `ConfigurationError` for a store that can have none.
    """
    path = folder.local_path(LOCK)
    if not lock:
        yield _Kept()
    elif path is not None:
        with _file_lock(folder, path):
            yield _Kept()
    else:
        store = conditional_object(folder, LOCK)
        if store is None:
            raise no_lock_there(folder)
        with Lease(folder, store, tell or _say) as lease:
            yield lease
            lease.check()


def lock_holder(folder: Folder) -> Holder | None:
    """Who writes into a run now, as far as its lock says; None if nobody does."""
    path = folder.local_path(LOCK)
    if path is None:
        store = conditional_object(folder, LOCK)
        there = store.read() if store is not None else None
        holder = Holder.parse(there[0]) if there is not None else None
        return None if holder is None or holder.released else holder
    with contextlib.suppress(FileNotFoundError, PermissionError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Holder.parse(file.read())
    return None


class _Kept:
    """A lock that cannot be lost, or none."""

    def check(self) -> None:
        """It is held."""


@contextlib.contextmanager
def _file_lock(folder: Folder, path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab+") as file:
        if not _flock(file):
            file.seek(0)
            raise written_by(folder, Holder.parse(file.read()))
        file.truncate(0)
        file.write(Holder.here().stored())
        file.flush()
        yield


def _flock(file: IO[bytes]) -> bool:
    for tries in range(_TRIES):
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_WAIT_S * (tries + 1 < _TRIES))
    return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
