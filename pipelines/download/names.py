"""Names to addresses by c-ares: hundreds at once, none of which waits for a thread.

The system's own resolver blocks a thread for each name, ten seconds for one that nobody answers
for, so that some dead names keep all living ones waiting. c-ares reads /etc/resolv.conf and
/etc/hosts; what only other services of a machine know (LDAP, mDNS) it does not find.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence

import aiodns

Address = tuple[socket.AddressFamily, str]
# Tries of a name; c-ares waits 0.25 s or more for the first, by how fast its server has been, and
# twice as long for each that follows.
_TRIES = 5
# Seconds of the first try with a server that is not known yet, and of all of them.
_FIRST_TRY_S, _LONGEST_S = 2.0, 10.0
# Seconds for which an answer counts, also that there is none.
_REMEMBERED_S = 300.0


class Names:
    """Looks names up, each once, and remembers the answers."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        # "address:port"; none: those of /etc/resolv.conf.
        self.servers = tuple(servers)
        self._resolver: aiodns.DNSResolver | None = None
        self._known: dict[str, tuple[float, asyncio.Task[tuple[Address, ...]]]] = {}

    async def addresses(self, name: str) -> tuple[Address, ...]:
        """Addresses of a name, never none. Raises `socket.gaierror` if it has none."""
        name = name.lower().rstrip(".")
        now = time.monotonic()
        until, task = self._known.get(name, (0.0, None))
        if task is None or until < now:
            task = asyncio.create_task(self._ask(name))
            self._known[name] = now + _REMEMBERED_S, task
        # Whoever gives up waiting does not end it for others.
        found = await asyncio.shield(task)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "name not resolved")
        return found

    async def _ask(self, name: str) -> tuple[Address, ...]:
        if not name:
            # The root, which c-ares takes for this machine.
            return ()
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(
                nameservers=self.servers or None, tries=_TRIES, timeout=_FIRST_TRY_S
            )
        try:
            async with asyncio.timeout(_LONGEST_S):
                answer = await self._resolver.getaddrinfo(
                    name, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
                )
        except (aiodns.error.DNSError, TimeoutError, ValueError, UnicodeError):
            return ()
        found = [(socket.AddressFamily(node.family), node.addr[0]) for node in answer.nodes]
        return tuple(
            (family, address.decode() if isinstance(address, bytes) else str(address))
            for family, address in found
        )

    async def close(self) -> None:
        """End what is still being asked."""
        tasks = [task for _, task in self._known.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resolver is not None:
            with contextlib.suppress(aiodns.error.DNSError):
                await self._resolver.close()
