"""A careful HTTP client for the open web: every transfer is bounded in time, bytes and
redirects."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import aiohttp
import yarl

from gristmill.pipelines.download.address import GuardedResolver, check_literal, check_port
from gristmill.pipelines.download.fetch_failures import (
    Refused,
    address_refused,
    breaks_rules,
    reason_of,
    retry_after,
)
from gristmill.pipelines.download.fetch_policy import (
    NOT_ASKED,
    RETRIED,
    UNVERIFIED,
    VERIFIED,
    Fetched,
    FetchPolicy,
)
from gristmill.pipelines.download.lenient_http import Answer, ask
from gristmill.pipelines.download.pace import host_key
from gristmill.pipelines.download.site_files import FILE_BYTES
from gristmill.pipelines.download.site_wishes import SiteWishes
from gristmill.pipelines.download.turns import Turns
from gristmill.pipelines.download.urls import BadUrl, parse_url, redirect_target
from gristmill.pipelines.opt_outs import OPT_OUT_HEADERS, agent_token, header_opt_out

_REDIRECTS = (301, 302, 303, 307, 308)
# Answers whose Retry-After is meant for the whole host.
_BUSY = (429, 503)
# Of a file that speaks for a host, as RFC 9309 has it.
_SITE_REDIRECTS = 5
_CHUNK = 64 * 1024
# Bytes of one line of an answer's head, and how many lines: some sites send their whole policy.
_HEADER_BYTES = 64 * 1024
_HEADERS = 512
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass
class _Try:
    """One try of a transfer."""

    clock: asyncio.Timeout
    # One of the two files of a host, which nothing forbids; else what a row wants.
    is_site_file: bool
    # Whether TLS told who answered, so far.
    tls: str | None = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The clock stands still: what takes time is not this server's doing."""
        loop = asyncio.get_running_loop()
        left = (self.clock.when() or 0.0) - loop.time()
        self.clock.reschedule(None)
        yield
        self.clock.reschedule(loop.time() + left)

    def saw(self, url: yarl.URL, tls: str) -> None:
        """Take note of an answer; one of many that was not verified counts."""
        if url.scheme == "https" and self.tls != UNVERIFIED:
            self.tls = tls


_Ask = Callable[[yarl.URL, _Try], contextlib.AbstractAsyncContextManager[Answer]]


class Fetcher:
    """Fetches URLs, many at once. Use as an async context manager.

    `room`: what is awaited before the request of a row that had to wait for its host.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        connector: aiohttp.BaseConnector | None = None,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.policy, self._room = policy, room
        self._connector = connector
        self._session: aiohttp.ClientSession | None = None
        # What robots files and headers call us.
        self._agent = agent_token(policy.user_agent)
        self._wishes = SiteWishes(self._site_file, self._agent, policy)
        self.turns = Turns(policy)
        self._resolver = GuardedResolver(policy.allow_hosts, policy.name_servers)
        # Whoever waits for a connection of ours waits before its clock runs.
        self._connections = asyncio.Semaphore(policy.connections)
        self._of_host: dict[str, asyncio.Semaphore] = {}
        # Jitter spreads load; it never decides what is written.
        self._random = random.Random()

    async def __aenter__(self) -> Fetcher:
        policy = self.policy
        connector = self._connector or aiohttp.TCPConnector(
            resolver=self._resolver,
            limit=policy.connections,
            limit_per_host=policy.per_host,
            # It has its own memory, which also knows what is not there.
            use_dns_cache=False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=policy.headers(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            max_headers=_HEADERS,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def look_up(self, url: str) -> None:
        """Have the name of a URL looked up before it is fetched; says nothing of what came."""
        if not self.policy.proxy:
            with contextlib.suppress(OSError, BadUrl):
                parsed = parse_url(url)
                await self._resolver.resolve(parsed.raw_host or "", parsed.port or 0)

    def must_wait(self, url: str) -> bool:
        """Whether a row may have to wait for its host, longer than others should for it."""
        if self.turns.is_paced:
            return True
        try:
            return self.turns.has_paused and self.turns.is_paused(host_key(parse_url(url)))
        except BadUrl:
            return False

    async def fetch(self, url: str) -> Fetched:
        """Fetch a URL; never raises for what a server or a URL does."""
        return await self._tries(url, is_site_file=False)

    async def _site_file(self, url: str) -> Fetched:
        return await self._tries(url, is_site_file=True)

    async def _tries(self, url: str, *, is_site_file: bool) -> Fetched:
        wait, said = self.policy.backoff_s, ""
        for attempt in range(self.policy.retries + 1):
            try:
                return await self._once(url, is_site_file)
            except Refused as refused:
                if said and refused.reason in NOT_ASKED:
                    # It was asked before: what it said then tells more.
                    return Fetched(None, said)
                said = refused.reason
                if attempt == self.policy.retries or said not in RETRIED:
                    return Fetched(None, said)
                pause = wait + self._random.uniform(0, wait / 2)
                if refused.retry_after is not None:
                    if refused.retry_after > self.policy.max_host_wait_s:
                        return Fetched(None, said)
                    pause = max(refused.retry_after, 0.01)
            await self.turns.sleep(pause)
            wait *= 2
        raise AssertionError("the last try returns")

    async def _once(self, url: str, is_site_file: bool) -> Fetched:
        """One try, all redirects included, within the deadline."""
        try:
            async with asyncio.timeout(self.policy.timeout_s) as clock:
                one = _Try(clock, is_site_file)
                try:
                    return Fetched(await self._follow(url, self._strictly, one), tls=one.tls)
                except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
                    if self.policy.proxy or not breaks_rules(error):
                        raise
                return Fetched(await self._follow(url, self._leniently, one), tls=one.tls)
        except Refused:
            raise
        except (Exception, asyncio.CancelledError) as error:
            reason = reason_of(error)
            if reason is None:
                raise
            raise Refused(reason) from error

    async def _follow(self, text: str, ask: _Ask, one: _Try) -> bytes:
        url = parse_url(text)
        hops = _SITE_REDIRECTS if one.is_site_file else self.policy.max_redirects
        for hop in range(hops + 1):
            async with self._get(url, ask, one, redirected=hop > 0) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = redirect_target(url, response.headers["Location"])
                    continue
                if not 200 <= response.status < 300 or not _is_whole(response):
                    wait = retry_after(response.headers)
                    if wait and response.status in _BUSY:
                        await self.turns.pause(host_key(url), wait)
                    raise Refused(f"http {response.status}", wait)
                if self.policy.opt_out != "off" and not one.is_site_file:
                    # Most answers say nothing: what they say is read only where one does.
                    said = any(name in response.headers for name in OPT_OUT_HEADERS)
                    wish = said and header_opt_out(response.headers.items(), self._agent)
                    if wish:
                        raise Refused(wish)
                return await self._body(response, one)
        raise Refused("too many redirects")

    @contextlib.asynccontextmanager
    async def _get(
        self, url: yarl.URL, ask: _Ask, one: _Try, *, redirected: bool
    ) -> AsyncIterator[Answer]:
        """One request to an address that is checked. A refusal says whether the address is the
        list's own or a server's idea: only the first can be allowed with good reason."""
        policy = self.policy
        try:
            host, port = url.raw_host or "", url.port or 0
            if not policy.proxy:
                check_literal(host, port, policy.allow_hosts)
            if policy.ports != "any":
                check_port(host, port, policy.allow_hosts)
            if not policy.proxy:
                with one.stopped():
                    await self._resolver.resolve(host, port, socket.AF_UNSPEC)
            if policy.opt_out == "robots" and not one.is_site_file:
                await self._permit(url, one)
            if self.turns.are_kept and self.turns.may_wait(host_key(url)):
                with one.stopped():
                    if self._room is not None:
                        await self._room()
                    await self.turns.take(host_key(url))
            async with self._connection(host_key(url), one), ask(url, one) as response:
                yield response
        except Exception as error:
            refused = address_refused(error)
            if refused is None:
                raise
            prefix = "redirect to a " if redirected else ""
            raise Refused(f"{prefix}{refused}") from error

    @contextlib.asynccontextmanager
    async def _connection(self, host: str, one: _Try) -> AsyncIterator[None]:
        """Hold one of the connections that there may be, to a host and at all."""
        own = self._of_host.setdefault(host, asyncio.Semaphore(self.policy.per_host))
        async with contextlib.AsyncExitStack() as held:
            with one.stopped():
                await held.enter_async_context(own)
                await held.enter_async_context(self._connections)
            yield

    async def _permit(self, url: yarl.URL, one: _Try) -> None:
        """Raises `Refused` for what the files of the host speak against."""
        with one.stopped():
            wishes = await self._wishes.of(f"{url.scheme}://{url.raw_authority}")
        reason = wishes.opt_out(str(url))
        if reason is not None:
            raise Refused(reason)
        self.turns.slow_down(host_key(url), wishes.robots.crawl_delay_s)

    def _strictly(self, url: yarl.URL, one: _Try) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Ask by aiohttp."""
        assert self._session is not None
        if not self.policy.verify_tls:
            return self._verified_or_not(url, one)
        return self._session.get(url, allow_redirects=False, proxy=self.policy.proxy or None)

    @contextlib.asynccontextmanager
    async def _verified_or_not(self, url: yarl.URL, one: _Try) -> AsyncIterator[Answer]:
        """Ask by aiohttp, again without verifying where that failed."""
        assert self._session is not None
        get, proxy = self._session.get, self.policy.proxy or None
        tls = VERIFIED
        try:
            response = await get(url, allow_redirects=False, proxy=proxy)
        except aiohttp.ClientConnectorCertificateError:
            tls = UNVERIFIED
            response = await get(url, allow_redirects=False, proxy=proxy, ssl=False)
        async with response:
            one.saw(url, tls)
            yield response

    @contextlib.asynccontextmanager
    async def _leniently(self, url: yarl.URL, one: _Try) -> AsyncIterator[Answer]:
        """Ask by what forgives a server its faults."""
        places = await self._resolver.resolve(url.raw_host or "", url.port or 0, socket.AF_UNSPEC)
        headers = self.policy.headers() | {"Accept": "*/*"}
        tls = VERIFIED
        try:
            answer = await ask(url, places, headers, self.policy.timeout_s)
        except ssl.SSLCertVerificationError:
            if self.policy.verify_tls:
                raise
            tls = UNVERIFIED
            answer = await ask(url, places, headers, self.policy.timeout_s, verify_tls=False)
        with contextlib.closing(answer):
            if not self.policy.verify_tls:
                one.saw(url, tls)
            yield answer

    async def _body(self, response: Answer, one: _Try) -> bytes:
        """The bytes of an answer; of a file of a host no more than its rules need."""
        cut = one.is_site_file
        limit = FILE_BYTES if cut else self.policy.max_bytes
        if (response.content_length or 0) > limit and not cut:
            raise Refused("too large")
        encoding = response.headers.get("Content-Encoding", "")
        inflate: zlib._Decompress | None = None
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_chunked(_CHUNK):
            if not pieces:
                inflate = _inflater(encoding, piece)
            if inflate is not None:
                piece = inflate.decompress(piece, limit - size + 1)
            size += len(piece)
            pieces.append(piece)
            if cut and size > limit:
                break
            if inflate is not None and inflate.unconsumed_tail:
                raise Refused("decompression bomb")
            if size > limit:
                raise Refused("too large" if inflate is None else "decompression bomb")
        return b"".join(pieces)[:limit]


def _is_whole(response: Answer) -> bool:
    """Whether an answer is no part of a file, as far as it says."""
    said = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return said is None or (said[1] == "0" and said[3] in ("*", str(int(said[2]) + 1)))


def _inflater(encoding: str, begin: bytes) -> zlib._Decompress | None:
    """What undoes the encoding of a server that was asked for none; None where there is none in
    truth, or one that is not known here: whatever opens the bytes decides what they are."""
    name = encoding.strip().lower()
    is_gzip = name in ("gzip", "x-gzip") and begin[:2] == b"\x1f\x8b"
    # RFC 1950: method 8, and a sum that 31 divides.
    is_deflate = name == "deflate" and begin[0] & 15 == 8 and not int.from_bytes(begin[:2]) % 31
    return zlib.decompressobj(wbits=47) if is_gzip or is_deflate else None
