"""What a demo says while it works: which step of how many, how long it and the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console

# Lines within a step come at most this often.
_EVERY_S = 4.0


class Steps:
    """Announces the steps of a demo.

    `seconds` is what each step took on one machine. How much slower this one is follows from the
    steps that are done, so that the time left is an estimate from the first line on.
    """

    def __init__(self, console: Console, seconds: tuple[float, ...]) -> None:
        self._console, self._seconds = console, seconds
        self._number = 0
        self._expected = self._taken = 0.0
        self._since: float | None = None

    def begin(self, text: str) -> None:
        """The next step begins."""
        self._close()
        self._since = time.monotonic()
        own = self._seconds[self._number] * self.pace
        left = sum(self._seconds[self._number :]) * self.pace
        self._number += 1
        self._console.print(
            f"[{self._number}/{len(self._seconds)}] {text} (about {duration(own)}; "
            f"{duration(left)} to the report)",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def found(self, text: str) -> None:
        """The step that was begun needs no doing: it was done before, and says nothing of speed."""
        self._since = None
        self._console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the step at work."""
        self._console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    @property
    def pace(self) -> float:
        """How many times as long as written down the steps took here."""
        return self._taken / self._expected if self._expected else 1.0

    def _close(self) -> None:
        if self._since is not None:
            self._taken += time.monotonic() - self._since
            self._expected += self._seconds[self._number - 1]


def counting(what: str, total: int) -> Callable[[int], None]:
    """A function to call with how many are done; it says so, and the time left, every few
    seconds."""
    # From the first that is done: what comes before it is the start of the workers.
    first, start, told = 0, time.monotonic(), time.monotonic()

    def tell(done: int) -> None:
        nonlocal first, start, told
        now = time.monotonic()
        if not first:
            first, start, told = done, now, now
        if done > first and now - told > _EVERY_S:
            told = now
            left = (now - start) / (done - first) * (total - done)
            print(
                f"  {done:,} of {total:,} {what}, {duration(left)} left",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    return tell


def duration(seconds: float) -> str:
    """For a person: 8 s, 1 min 20 s, 9 min."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min" if minutes >= 5 else f"{minutes} min {rest:02d} s"
