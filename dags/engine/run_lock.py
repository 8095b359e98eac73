"""The lock of a run's folder, which keeps a second writer out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from gristmill.errors import RunLockedError, StorageError
from gristmill.pipelines.storage import Folder


@contextlib.contextmanager
def run_lock(folder: Folder) -> Iterator[None]:
    """Refuse a second writer. A lock left by a killed process on this machine holds nobody back."""
    path = folder.local_path("run.lock")
    if path is None:
        with _remote_lock(folder):
            yield
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise RunLockedError(
                f"{folder.url} is being written by process {file.read().strip() or 'unknown'}; "
                "wait for it, or stop it and run again"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _remote_lock(folder: Folder) -> Iterator[None]:
    """Object stores have no file locks: a marker says who writes."""
    mine = f"{os.uname().nodename}:{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        holder = folder.read_bytes("run.lock").decode().strip()
        host, _, pid = holder.rpartition(":")
        there = host != os.uname().nodename or os.path.exists(f"/proc/{pid}")
        if there and holder != mine:
            raise RunLockedError(
                f"{folder.url} is being written by {holder}; if that process is gone, "
                f"remove {folder.join_url('run.lock')} and run again"
            )
    folder.write_bytes("run.lock", mine.encode())
    try:
        yield
    finally:
        # A store that went away keeps the marker; it names this process, which will be gone.
        with contextlib.suppress(StorageError):
            folder.remove("run.lock")
