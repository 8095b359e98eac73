"""Work on rows is watched: a worker in a child process, with deadlines, restarted when it dies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from gristmill.dags.engine.part_worker import PartWorker
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.pipelines import heartbeat
from gristmill.pipelines.child import Child, ChildDied
from gristmill.pipelines.fork_server import modules_of

# A stage that fails on so many rows from the first on, always in the same place, is broken.
FIRST_ROWS = 16
# Seconds for what only reads a part's columns.
_ASK_S = 600.0


@dataclass(frozen=True)
class Supervision:
    """How the work on rows is watched."""

    # False: stages run in this very process, for a debugger; a poison row then takes it down.
    isolate: bool = True
    # Seconds one row may take before it counts as hanging; a block gets a multiple.
    row_deadline_s: float = 30.0
    # Seconds a Map may be silent; a download is silent while every row waits for its timeout.
    map_silence_s: float = 600.0


class Supervised:
    """A `PartWorker` in a child process, or in this one when debugging."""

    def __init__(
        self,
        layout: RunLayout,
        nodes: Sequence[str],
        supervision: Supervision,
        *,
        shares: bool = False,
    ) -> None:
        self.supervision = supervision
        self._make = functools.partial(PartWorker, layout, tuple(nodes))
        # What starts a process a core by itself would start as many for each worker.
        one = {"OMP_NUM_THREADS": "1"} if shares else {}
        libraries = [name for node in nodes for name in layout.dag.stage(node).libraries]
        self._child = (
            Child(
                self._make,
                environment=one,
                modules=["gristmill.dags.engine.part_worker", *modules_of(libraries)],
            )
            if supervision.isolate
            else None
        )
        self._here: PartWorker | None = None

    def start(self) -> None:
        """Have a worker that is ready; one that is killed while it starts is started again."""
        for attempt in range(3):
            try:
                if self._child is not None:
                    self._child.start()
                return
            except ChildDied:
                if attempt == 2:
                    raise

    def on_beat(self, listener: Callable[[heartbeat.Heartbeat], None]) -> None:
        """Have the heartbeats of what is called handed to `listener`."""
        if self._child is not None:
            self._child.on_beat = listener
        else:
            heartbeat.listen(listener)

    def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        """Call a method of the worker."""
        self.start()
        if self._child is not None:
            return self._child.call(method, *args, deadline_s=deadline_s)
        return getattr(self._worker(), method)(*args)

    def call_readonly(self, method: str, *args: Any) -> Any:
        """Call a method that runs no stage; a worker that dies meanwhile was killed by chance."""
        for _ in range(2):
            with contextlib.suppress(ChildDied):
                return self.call(method, *args, deadline_s=_ASK_S)
        return self.call(method, *args, deadline_s=_ASK_S)

    def stream(self, method: str, *args: Any, silence_s: float) -> Iterator[Any]:
        """Iterate a generator method of the worker."""
        self.start()
        if self._child is not None:
            return self._child.stream(method, *args, silence_s=silence_s)
        generator: Iterator[Any] = getattr(self._worker(), method)(*args)
        return generator

    def _worker(self) -> PartWorker:
        if self._here is None:
            self._here = self._make()
        return self._here

    def peak_mb(self) -> float:
        """Resident memory of the child now, MB; 0 without one."""
        if self._child is None or self._child.pid is None:
            return 0.0
        try:
            return float(psutil.Process(self._child.pid).memory_info().rss) / 2**20
        except psutil.Error:
            return 0.0

    def stop(self) -> None:
        """Have a call that another thread is in end by `Stopped`."""
        if self._child is not None:
            self._child.stop()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._here = None
