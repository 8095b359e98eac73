"""Operators without a run; importable by Ray's workers."""

from __future__ import annotations

import os
from pathlib import Path

from gristmill.errors import SourceError
from gristmill.pipelines.stage import Needs


class Marking:
    """Leaves a file for each task; tasks may fail."""

    shares = False

    def __init__(
        self,
        folder: Path,
        *,
        holds_worker: bool,
        fails: dict[int, str] | None = None,
        gpus: float = 0,
    ) -> None:
        self.folder, self.holds_worker, self.fails = folder, holds_worker, fails or {}
        self.gpus = gpus

    def needs(self) -> Needs:
        return Needs(cpus=1.0, gpus=self.gpus)

    def __call__(self, task: int, /) -> bool:
        if self.fails.get(task) == "ours":
            raise SourceError(f"task {task} has no source")
        if self.fails.get(task) == "foreign":
            raise KeyError(f"task {task}")
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{task}-{os.getpid()}").touch()
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        """Nothing is held."""


def fail_with(error: Exception) -> None:
    """Raise it."""
    raise error
