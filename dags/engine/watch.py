"""Watching a run: commit records as they appear, memory of the process tree, free disk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence

import psutil

from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.errors import DiskFullError, StorageError
from gristmill.pipelines.storage import Folder

_EVERY_S = 0.5


class _Watch:
    """A thread that looks every half second until it is left."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def look(self) -> None:
        """One look."""
        raise NotImplementedError

    def _loop(self) -> None:
        while not self._stop.wait(_EVERY_S):
            # A store that is away is the run's to notice; the next look may find it again.
            with contextlib.suppress(OSError, StorageError):
                self.look()

    def _enter(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


class CommitWatch(_Watch):
    """Tells progress about parts as their records appear, whoever commits them."""

    def __init__(
        self,
        layout: RunLayout,
        nodes: Sequence[str],
        before: Mapping[str, Mapping[int, str]],
        progress: Progress,
    ) -> None:
        super().__init__()
        self._stores = {node: layout.store(node) for node in nodes}
        self._before, self._progress = before, progress
        self._seen: dict[str, set[int]] = {node: set() for node in nodes}
        self._lock = threading.Lock()

    def __enter__(self) -> CommitWatch:
        self.look()
        self._enter()
        return self

    def look(self) -> None:
        """Report parts that have come since the last look."""
        with self._lock:
            for node, store in self._stores.items():
                for part in store.parts():
                    if part in self._seen[node]:
                        continue
                    record = store.record(part)
                    if record is None:
                        continue
                    self._seen[node].add(part)
                    self._progress.advance(
                        node,
                        rows=record.rows_in,
                        kept=record.rows_out,
                        reused=part in self._before[node],
                        part=part,
                    )

    def sweep(self) -> None:
        """A last look, when all is done."""
        self.look()


class ResourceWatch(_Watch):
    """Peak resident memory of this process and all below it, and whether the disk has room."""

    def __init__(self, folder: Folder, min_free_gb: float) -> None:
        super().__init__()
        self._folder, self._min_free = folder, min_free_gb * 1e9
        self._process = psutil.Process()
        self.peak_mb = 0.0

    def __enter__(self) -> ResourceWatch:
        self.check()
        self.look()
        self._enter()
        return self

    def look(self) -> None:
        """Measure once. Pages shared with other processes count for none of them."""
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in [self._process, *self._process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    memory = process.memory_info()
                    total += memory.rss - memory.shared
        self.peak_mb = max(self.peak_mb, total / 2**20)

    def check(self) -> None:
        """Raise `DiskFullError` before the disk is full."""
        free = self._folder.free_bytes()
        if free is not None and free < self._min_free:
            raise DiskFullError(
                f"{free / 1e9:.1f} GB free where {self._folder.url} lies, less than the "
                f"{self._min_free / 1e9:.1f} GB kept in reserve; everything committed stays: make "
                "room and run the same command again (gristmill clean removes what is stale)"
            )
