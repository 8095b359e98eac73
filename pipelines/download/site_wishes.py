"""What whole hosts wish, asked for once: robots.txt and tdmrep.json of a scheme, host and port."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from gristmill.pipelines.download.fetch_policy import Fetched
from gristmill.pipelines.download.site_files import (
    FILE_BYTES,
    ROBOTS_PATH,
    ROBOTS_UNREACHABLE,
    TDMREP_PATH,
    TDMREP_UNREACHABLE,
    Reservations,
    Robots,
    read_robots,
    read_tdmrep,
)

# A file may be gone by for a day (RFC 9309, 2.4).
_KEPT_S = 86_400.0
# Bytes of files whose rules one process keeps: those used last.
_KEPT_BYTES = 32 * 2**20
# What one costs beside its bytes.
_OVERHEAD = 2048


@dataclass(frozen=True)
class Wishes:
    """What the files of one host say to us."""

    robots: Robots = field(default_factory=Robots)
    reservations: Reservations = field(default_factory=Reservations)
    # Why nothing is fetched there now: a file of wishes that could not be read.
    unreachable: str | None = None
    # Of what was read.
    size: int = 0

    def opt_out(self, url: str) -> str | None:
        """The reason for which a URL of the host is not fetched; None: nothing is against it."""
        return self.unreachable or self.robots.opt_out(url) or self.reservations.opt_out(url)


class _Known:
    """What this process has read, for the clients of all its parts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Wishes, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, now: float) -> Wishes | None:
        with self._lock:
            wishes, until = self._kept.get(key, (None, 0.0))
            if wishes is None or until < now:
                return None
            self._kept.move_to_end(key)
            return wishes

    def put(self, key: Hashable, wishes: Wishes, now: float) -> None:
        with self._lock:
            before, _ = self._kept.pop(key, (None, 0.0))
            self._bytes -= before.size + _OVERHEAD if before is not None else 0
            self._kept[key] = wishes, now + _KEPT_S
            self._bytes += wishes.size + _OVERHEAD
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                _, (oldest, _) = self._kept.popitem(last=False)
                self._bytes -= oldest.size + _OVERHEAD


_known = _Known()


class SiteWishes:
    """Asks hosts for their wishes, each once however many rows it has.

    `read` fetches a file of a host; `asker`: who asks, for what is remembered between parts.
    """

    def __init__(
        self, read: Callable[[str], Awaitable[Fetched]], agent: str, asker: Hashable
    ) -> None:
        self._read, self._agent, self._asker = read, agent, asker
        # What could not be read stays so only here: the next part asks anew.
        self._asked: dict[str, asyncio.Task[Wishes]] = {}

    async def of(self, origin: str) -> Wishes:
        """The wishes of a scheme, host and port, as `http://host:8080`."""
        now = asyncio.get_running_loop().time()
        known = _known.get((self._asker, origin), now)
        if known is not None:
            return known
        if origin not in self._asked:
            self._asked[origin] = asyncio.ensure_future(self._ask(origin))
        # A row that is called off takes the answer from no other.
        wishes = await asyncio.shield(self._asked[origin])
        if wishes.unreachable is None:
            _known.put((self._asker, origin), wishes, now)
            self._asked.pop(origin, None)
        return wishes

    async def _ask(self, origin: str) -> Wishes:
        robots = await self._read(f"{origin}{ROBOTS_PATH}")
        if _is_unreachable(robots):
            return Wishes(unreachable=ROBOTS_UNREACHABLE)
        tdmrep = await self._read(f"{origin}{TDMREP_PATH}")
        said = tdmrep.data or b""
        # Half of a JSON text tells nothing.
        if _is_unreachable(tdmrep) or len(said) >= FILE_BYTES:
            return Wishes(unreachable=TDMREP_UNREACHABLE)
        rules = robots.data or b""
        return Wishes(
            read_robots(rules, self._agent), read_tdmrep(said), size=len(rules) + len(said)
        )


def _is_unreachable(file: Fetched) -> bool:
    """Whether there may be wishes that could not be read (RFC 9309, 2.3.1): not where the host
    says that there is no such file, or leads round and round."""
    error = file.error
    if error is None or error == "too many redirects":
        return False
    return not error.startswith(("http 3", "http 4")) or error == "http 429"
