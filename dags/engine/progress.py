"""What a person sees while a run goes: bars on a terminal, one line an event otherwise."""

from __future__ import annotations

import datetime
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from gristmill.pipelines.storage import Folder

# A log gets one line for a node at most this often.
_EVERY_S = 5.0


@dataclass
class NodeProgress:
    """Counts of one node."""

    parts: int
    # Rows that are expected; None if nobody knows.
    expected: int | None = None
    done: int = 0
    reused: int = 0
    rows: int = 0
    kept: int = 0
    fresh_rows: int = 0
    # Reason -> rows that ended here.
    dropped: Counter[str] = field(default_factory=Counter)
    # Of the files of its parts.
    bytes: int = 0
    began: float = 0.0
    # When the first rows were done, and how many: what came before is the start of the workers.
    first: float = 0.0
    first_rows: int = 0
    told: float = 0.0
    # Part -> rows done, rows of the part, for parts that are under way.
    under_way: dict[int, tuple[int, int]] = field(default_factory=dict)
    # Parts that are done, of those that were named: what is said of them comes late.
    committed: set[int] = field(default_factory=set)

    @property
    def rows_now(self) -> int:
        """Rows done, those of parts under way included."""
        return self.rows + sum(done for done, _ in self.under_way.values())

    @property
    def parts_now(self) -> float:
        """Parts done, with the share of those under way."""
        return self.done + sum(done / max(of, 1) for done, of in self.under_way.values())

    @property
    def total(self) -> int | None:
        """Rows in all, as far as the parts that were seen tell."""
        seen = self.done + len(self.under_way)
        if not seen or self.expected is None:
            return self.expected
        rows = self.rows + sum(of for _, of in self.under_way.values())
        return round(rows / seen * self.parts)

    @property
    def rate(self) -> float:
        """Rows per second of what was done now, since the first of it; 0 before more is done."""
        seconds = time.monotonic() - self.first
        fresh = self.fresh_now - self.first_rows
        return fresh / seconds if self.first and seconds > 0 else 0.0

    @property
    def fresh_now(self) -> int:
        """Rows done now, those of parts under way included."""
        return self.fresh_rows + self.rows_now - self.rows

    def see(self, now: float) -> None:
        """Take note of the first rows."""
        if not self.first and self.fresh_now:
            self.first, self.first_rows = now, self.fresh_now

    @property
    def left_s(self) -> float | None:
        """Seconds left; None before anything is known."""
        if self.total is None or not self.rate:
            return None
        return max(self.total - self.rows_now, 0) / self.rate

    @property
    def share(self) -> str:
        """Share of rows that went on."""
        return f"{self.kept / self.rows:.0%} kept" if self.rows else ""

    @property
    def line(self) -> str:
        """All this for a log."""
        text = f"part={self.done}/{self.parts} rows={self.rows_now}"
        text += f"/{self.total}" if self.total is not None else ""
        text += f" rows/s={self.rate:.3g}" if self.rate else ""
        left = self.left_s
        return text + (f" left={left:.0f}s" if left is not None else "")


class Progress:
    """Plain lines on standard error, and in the run's log. Threads may call it."""

    def __init__(self, log: Folder | None = None) -> None:
        self._nodes: dict[str, NodeProgress] = {}
        self._lock = threading.Lock()
        self._log_folder = log
        self._lines: list[str] = []
        self.warnings = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._log_folder is not None and self._lines:
            name = f"logs/{time.strftime('%Y%m%d-%H%M%S')}.log"
            self._log_folder.write_bytes(name, "".join(f"{x}\n" for x in self._lines).encode())

    def start(self, node: str, parts: int, rows: int | None) -> None:
        """A node begins; `parts` may count tasks."""
        with self._lock:
            now = time.monotonic()
            self._nodes[node] = NodeProgress(parts, rows, began=now, told=now)
        self._line(node, f"start parts={parts}" + (f" rows={rows}" if rows else ""))

    def advance(
        self,
        node: str,
        parts: int = 1,
        rows: int = 0,
        kept: int = 0,
        reused: bool = False,
        part: int | None = None,
        dropped: Mapping[str, int] | None = None,
        size: int = 0,
    ) -> None:
        """Parts of a node are done; `part`: which, where it was told `within` it. `size` is in
        bytes."""
        with self._lock:
            state = self._nodes[node]
            if part is not None:
                state.under_way.pop(part, None)
                state.committed.add(part)
            state.done += parts
            state.reused += parts if reused else 0
            state.rows += rows
            state.kept += kept
            state.dropped.update(dropped or {})
            state.bytes += size
            state.fresh_rows += 0 if reused else rows
            state.see(time.monotonic())
        self._changed(node, state)

    def within(self, node: str, part: int, done: int, of: int, /) -> None:
        """`done` of the `of` rows of a part are done, and it is under way."""
        with self._lock:
            state = self._nodes[node]
            if part in state.committed:
                return
            state.under_way[part] = done, of
            state.see(time.monotonic())
        self._changed(node, state)

    def _changed(self, node: str, state: NodeProgress) -> None:
        now = time.monotonic()
        with self._lock:
            tell = now - state.told > _EVERY_S
            if tell:
                state.told = now
        if tell:
            self._line(node, state.line, state)

    def seen(self) -> dict[str, NodeProgress]:
        """The nodes that have begun, as they are now: for who counts, in another thread."""
        with self._lock:
            return dict(self._nodes)

    def finish(self, node: str) -> None:
        """A node is done."""
        state = self._nodes[node]
        seconds = time.monotonic() - state.began
        text = f"done parts={state.done}/{state.parts} seconds={seconds:.1f}"
        if state.reused:
            text += f" reused={state.reused}"
        if state.rows:
            text += f" rows={state.rows} kept={state.kept}"
        self._line(node, text, state)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._line("note", text)

    def warn(self, text: str) -> None:
        """Something worth a look."""
        self.warnings += 1
        self._line("warning", text)

    def _line(self, subject: str, text: str, state: NodeProgress | None = None) -> None:
        line = f"{time.strftime('%H:%M:%S')} {subject}: {text}"
        with self._lock:
            self._lines.append(line)
        self._show(line, state)

    def _show(self, line: str, state: NodeProgress | None = None) -> None:
        print(line, file=sys.stderr, flush=True)


class JsonProgress(Progress):
    """A JSON object an event, for who collects logs: when, about what, in words and in numbers."""

    def _show(self, line: str, state: NodeProgress | None = None) -> None:
        subject, _, text = line[9:].partition(": ")
        kind = subject if subject in ("note", "warning") else "node"
        event: dict[str, object] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "event": kind,
            **({"node": subject} if kind == "node" else {}),
            "message": text,
        }
        if state is not None:
            event |= {
                "parts": state.parts,
                "parts_done": state.done,
                "rows": state.rows_now,
                "rows_kept": state.kept,
                "rows_dropped": dict(sorted(state.dropped.copy().items())),
                "bytes": state.bytes,
                "rows_per_s": round(state.rate, 3),
            }
        print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)


class LiveProgress(Progress):
    """Bars for a person; only notes and warnings scroll by."""

    def __init__(self, console: Console, log: Folder | None = None) -> None:
        super().__init__(log)
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}", justify="right"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
        super().__exit__(*error)

    def start(self, node: str, parts: int, rows: int | None) -> None:
        """A node begins."""
        super().start(node, parts, rows)
        self._tasks[node] = self._bars.add_task(node, total=parts, count=f"0/{parts}", facts="")

    def finish(self, node: str) -> None:
        """A node is done."""
        super().finish(node)
        self._draw(node, self._nodes[node])

    def _changed(self, node: str, state: NodeProgress) -> None:
        super()._changed(node, state)
        self._draw(node, state)

    def _draw(self, node: str, state: NodeProgress) -> None:
        """Rows where they are known, tasks elsewhere."""
        count = f"{state.done}/{state.parts}"
        if state.rows_now or state.expected is not None:
            total = f"/{state.total:,}" if state.total is not None else ""
            count = f"{state.rows_now:,}{total} rows"
        rate = f"{state.rate:,.3g} rows/s" if state.rate else ""
        facts = "  ".join(text for text in (rate, state.share) if text)
        self._bars.update(self._tasks[node], completed=state.parts_now, count=count, facts=facts)

    def _show(self, line: str, state: NodeProgress | None = None) -> None:
        subject, _, text = line[9:].partition(": ")
        if subject in ("note", "warning"):
            style = "yellow" if subject == "warning" else "dim"
            self._bars.console.print(f"{subject}: {text}", style=style, markup=False)


def make_progress(
    console: Console | None = None,
    plain: bool | None = None,
    log: Folder | None = None,
    *,
    as_json: bool = False,
) -> Progress:
    """Bars if the console is a terminal, lines if not; `plain` or `as_json` decides otherwise."""
    if as_json:
        return JsonProgress(log)
    if plain is None:
        plain = console is None or not console.is_terminal
    if plain or console is None:
        return Progress(log)
    return LiveProgress(console, log)
