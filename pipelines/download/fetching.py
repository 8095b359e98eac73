"""Many URLs fetched at once, where a slow name or a slow host keeps no other waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from gristmill.pipelines.download.fetch_policy import Fetched, FetchPolicy
from gristmill.pipelines.download.http_client import Fetcher

# Names that one worker has looked up at once: those that nobody answers for take 8 s each.
_NAMES_AT_ONCE = 256
# Seconds between two looks at whether anybody waits for results, and between two signs of life of
# rows that wait for their hosts, so that nobody takes that for a hang.
_LOOK_S, _SIGN_S = 0.2, 20.0
Item = tuple[list[int], str]
"""Rows of one image, and its URL."""


class Fetching:
    """Fetches items and hands on what came: `done(rows, fetched)`.

    `stop`: nobody wants the rest; `room` waits until there is room for more bytes; `sign` is called
    now and then while rows wait for their hosts.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        stop: threading.Event,
        done: Callable[[list[int], Fetched], Awaitable[None]],
        room: Callable[[], Awaitable[None]],
        sign: Callable[[], Awaitable[None]],
    ) -> None:
        self.policy, self.stop = policy, stop
        self.done, self.room, self.sign = done, room, sign

    async def run(self, items: Sequence[Item]) -> None:
        """Fetch them all."""
        async with Fetcher(self.policy, room=self.room) as fetcher:
            watch = asyncio.create_task(self._watch(fetcher, asyncio.current_task()))
            try:
                await self._fetch_all(fetcher, items)
            finally:
                watch.cancel()

    async def _watch(self, fetcher: Fetcher, work: asyncio.Task[None] | None) -> None:
        """Give signs of life, and end rows that wait for a host when nobody waits for them."""
        told = time.monotonic()
        while not self.stop.is_set():
            await asyncio.sleep(_LOOK_S)
            if fetcher.turns.waiting and time.monotonic() - told > _SIGN_S:
                told = time.monotonic()
                await self.sign()
        if work is not None and fetcher.turns.waiting:
            work.cancel()

    async def _fetch_all(self, fetcher: Fetcher, items: Sequence[Item]) -> None:
        """Names are looked up ahead, many more at once than there are transfers: those that nobody
        answers for keep nobody waiting."""
        pending = iter(items)
        most = self.policy.connections
        known: asyncio.Queue[Item | None] = asyncio.Queue(most)
        async with asyncio.TaskGroup() as tasks:
            lookers = [
                tasks.create_task(self._look_up_some(fetcher, pending, known))
                for _ in range(min(_NAMES_AT_ONCE, len(items)))
            ]
            count = min(most, len(items))
            for _ in range(count):
                tasks.create_task(self._fetch_some(fetcher, known, tasks))
            await asyncio.gather(*lookers)
            for _ in range(count):
                await known.put(None)

    async def _look_up_some(
        self, fetcher: Fetcher, pending: Iterator[Item], known: asyncio.Queue[Item | None]
    ) -> None:
        for item in pending:
            if self.stop.is_set():
                return
            await fetcher.look_up(item[1])
            await known.put(item)

    async def _fetch_some(
        self, fetcher: Fetcher, known: asyncio.Queue[Item | None], tasks: asyncio.TaskGroup
    ) -> None:
        while (item := await known.get()) is not None:
            if self.stop.is_set():
                # What is known already is taken, so that nobody waits to hand it over.
                continue
            if fetcher.must_wait(item[1]):
                # Rows of a slow host wait aside: others go on.
                tasks.create_task(self._fetch_one(fetcher, item))
            else:
                await self._fetch_one(fetcher, item)

    async def _fetch_one(self, fetcher: Fetcher, item: Item) -> None:
        rows, url = item
        await self.room()
        await self.done(rows, await fetcher.fetch(url))
