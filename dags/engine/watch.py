"""Watching a run: parts as they come, memory of the process tree, free disk."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

import psutil

from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_folder import ROWS, RunLayout
from gristmill.errors import DiskFullError, StorageError
from gristmill.pipelines.storage import Folder

_EVERY_S = 0.5
# Parts whose records are fetched side by side.
_AT_ONCE = 64


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


class CommitWatch:
    """Tells progress about parts that have come through a chain, knows their records, and gathers
    these when they are many. Nothing is listed."""

    def __init__(
        self,
        layout: RunLayout,
        nodes: Sequence[str],
        before: Mapping[str, Mapping[int, str]],
        progress: Progress,
    ) -> None:
        self._stores = {node: layout.store(node) for node in nodes}
        self._before, self._progress = before, progress
        self._waiting: list[int] = []
        self._told_at = time.monotonic()

    def reused(self, parts: Iterable[int]) -> None:
        """Parts that are not done now, as they were there."""
        self._tell(list(parts))

    def done(self, part: int) -> None:
        """A part has come; a few at a time are looked at."""
        self._waiting.append(part)
        if len(self._waiting) >= _AT_ONCE or time.monotonic() - self._told_at > _EVERY_S:
            self.sweep()

    def sweep(self) -> None:
        """Look at the parts that have come since."""
        for store in self._stores.values():
            store.look_again(self._waiting)
        self._tell(self._waiting)
        for store in self._stores.values():
            store.gather_many()
        self._waiting, self._told_at = [], time.monotonic()

    def _tell(self, parts: Sequence[int]) -> None:
        for node, store in self._stores.items():
            for part in parts:
                record = store.need(part)
                self._progress.advance(
                    node,
                    rows=record.rows_in,
                    kept=record.rows_out,
                    reused=self._before[node].get(part) == record.files[ROWS]["name"],
                    part=part,
                    dropped=record.dropped,
                    size=sum(file["size"] for file in record.files.values()),
                )


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
