"""Rows wait for the turn of their request: one after the other at each host, at its pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from gristmill.pipelines.download.fetch_failures import Refused
from gristmill.pipelines.download.fetch_policy import (
    CRAWL_DELAY_TOO_LONG,
    NO_TURN,
    RETRY_AFTER_TOO_LONG,
    FetchLimits,
)
from gristmill.pipelines.download.pace import LocalPace, PaceLost, pace_of_process


class Turns:
    """The turns of one client's requests."""

    def __init__(self, limits: FetchLimits) -> None:
        self._pace = pace_of_process()
        self._rate_s = 1 / limits.per_host_rate if limits.per_host_rate > 0 else 0.0
        self._most_s = limits.max_host_wait_s
        # Whether hosts may have a pace of their own: rows are then told apart by host.
        self.is_paced = self._rate_s > 0 or limits.opt_out == "robots"
        # Rows that wait because they were told to.
        self.waiting = 0
        # Host -> seconds between requests that its robots.txt asks for.
        self._delays: dict[str, float] = {}
        # One row of a host asks for its turn at a time.
        self._queues: dict[str, asyncio.Lock] = {}

    def slow_down(self, host: str, delay_s: float) -> None:
        """A host asks for so many seconds between requests."""
        if delay_s > 0:
            self._delays[host] = max(self._delays.get(host, 0.0), delay_s)

    @property
    def has_paused(self) -> bool:
        """Whether some host was to be left alone lately."""
        return isinstance(self._pace, LocalPace) and self._pace.is_kept

    @property
    def are_kept(self) -> bool:
        """Whether any request may have to wait for its turn."""
        return self.is_paced or not isinstance(self._pace, LocalPace) or self._pace.is_kept

    def is_paused(self, host: str) -> bool:
        """Whether a host is known here to be left alone now."""
        return isinstance(self._pace, LocalPace) and self._pace.is_paused(host)

    def may_wait(self, host: str) -> bool:
        """Whether a turn has to be taken before a request."""
        return self.is_paced or not isinstance(self._pace, LocalPace) or self.is_paused(host)

    async def take(self, host: str) -> None:
        """Wait for the next turn at a host. Raises `Refused` where that takes too long, or nobody
        counts them."""
        delay = self._delays.get(host, 0.0)
        if delay > self._most_s:
            raise Refused(CRAWL_DELAY_TOO_LONG)
        interval = max(self._rate_s, delay)
        with self._counted():
            async with self._queues.setdefault(host, asyncio.Lock()):
                while wait := await self._ask(host, interval):
                    # A rate of the user's own may be as slow as it likes.
                    if wait > max(self._most_s, interval):
                        raise Refused(RETRY_AFTER_TOO_LONG)
                    await asyncio.sleep(wait)

    async def _ask(self, host: str, interval_s: float) -> float:
        if isinstance(self._pace, LocalPace):
            return self._pace.take(host, interval_s)
        try:
            return await asyncio.to_thread(self._pace.take, host, interval_s)
        except PaceLost:
            raise Refused(NO_TURN) from None

    async def pause(self, host: str, seconds: float) -> None:
        """Have all leave a host alone."""
        if isinstance(self._pace, LocalPace):
            self._pace.pause(host, seconds)
            return
        # Whoever retries will hear that nobody counts.
        with contextlib.suppress(PaceLost):
            await asyncio.to_thread(self._pace.pause, host, seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait before another try."""
        with self._counted():
            await asyncio.sleep(seconds)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
