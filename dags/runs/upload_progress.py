"""What a person sees while files are sent: a bar on a terminal, a line for some files elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class UploadProgress:
    """Lines on standard error, or a bar if there is a `console`; counts files and bytes."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._of = self._of_bytes = self.files = self.bytes = 0

    def __enter__(self) -> UploadProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, files: int, size: int) -> None:
        """So many files of `size` bytes in all are to be sent."""
        self._of, self._of_bytes = files, size
        if self._console is None:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._count(), total=size)

    def sent(self, files: int, size: int) -> None:
        """So many more files are there."""
        self.files += files
        self.bytes += size
        if self._bar is not None:
            self._bar.update(self._task, completed=self.bytes, description=self._count())
        else:
            self.note(f"{self._count()}, {size_text(self.bytes)} of {size_text(self._of_bytes)}")

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if self._console is not None:
            self._console.print(text, style="dim", markup=False, highlight=False)
        else:
            print(f"{time.strftime('%H:%M:%S')} publish: {text}", file=sys.stderr, flush=True)

    def _count(self) -> str:
        return f"{self.files}/{self._of} files"


def size_text(size: int) -> str:
    """Bytes for people: `812 bytes`, `1.2 MB`."""
    if size < 1000:
        return f"{size} bytes"
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
