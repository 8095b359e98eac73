"""A careful HTTP client for the open web: every transfer is bounded in time, bytes and
redirects."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import random
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import aiohttp.http_exceptions
import yarl

from gristmill import __version__
from gristmill.pipelines.download.address import (
    AddressRefused,
    GuardedResolver,
    check_literal,
    check_port,
)
from gristmill.pipelines.download.lenient_http import Answer, ask
from gristmill.pipelines.download.urls import BadUrl, parse_url, redirect_target
from gristmill.pipelines.opt_outs import agent_token, header_opt_out
from gristmill.pipelines.stage import execution, setting

USER_AGENT = f"gristmill/{__version__} (dataset curation; respects X-Robots-Tag)"
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024
# Bytes of one line of an answer's head, and how many lines: some sites send their whole policy.
_HEADER_BYTES = 64 * 1024
_HEADERS = 512
_Ask = Callable[[yarl.URL], contextlib.AbstractAsyncContextManager[Answer]]
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Failures that another try may heal.
TRANSIENT = (
    "connection refused", "connection failed", "connection lost", "name not resolved", "timed out",
    "truncated transfer", "http 408", "http 429", "http 500", "http 502", "http 503", "http 504",
)  # fmt: skip
# Of these, what is worth another try at once; a slow server is left alone, and a name has been
# asked for several times.
_RETRIED = tuple(
    reason for reason in TRANSIENT if reason not in ("timed out", "http 408", "name not resolved")
)


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Bounds and manners of a client that a stage lets its user choose."""

    # Of one transfer, inflated.
    max_bytes: int = setting(50_000_000, unit="bytes", low=1)
    # For one try: connection, redirects and the whole body; looking names up is not counted.
    timeout_s: float = setting(15.0, unit="s", low=0)
    # Redirects of one try; the address is checked at each.
    max_redirects: int = setting(5, low=0)
    # Further tries for what may heal: connection, 429 with Retry-After, 5xx.
    retries: int = setting(2, low=0)
    # "host" or "host:port" that may lie in a private network.
    allow_hosts: tuple[str, ...] = ()
    # "web": 80, 443, 8080, 8443, and what `allow_hosts` names; "any": every port.
    ports: str = setting("web", choices=("web", "any"), later=True)
    # URL of a trusted proxy; addresses are then the proxy's business.
    proxy: str = ""
    # What servers are told of who asks.
    user_agent: str = USER_AGENT
    # Whose wishes not to be used are kept: "header": those of each answer (X-Robots-Tag, as
    # img2dataset; Content-Usage; tdm-reservation); "off": nobody's.
    opt_out: str = setting("header", choices=("header", "off"))
    # Transfers at once of one worker.
    connections: int = execution(64, low=1)
    # Transfers at once of one worker to one host and port.
    per_host: int = execution(16, low=1)


@dataclass(frozen=True, kw_only=True)
class FetchPolicy(FetchLimits):
    """All that a client keeps to."""

    # Seconds before the second try; doubled each time, plus up to half of it at random.
    backoff_s: float = 0.5
    # A server's Retry-After is honoured up to this many seconds.
    max_retry_after_s: float = 20.0
    # Name servers, "address:port"; none: those of the machine.
    name_servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fetched:
    """The bytes of a URL, or why there are none."""

    data: bytes | None
    error: str | None = None


class _Refused(Exception):
    """A transfer that ends with a countable reason, and perhaps a time to wait."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.retry_after = reason, retry_after


class Fetcher:
    """Fetches URLs, many at once. Use as an async context manager."""

    def __init__(self, policy: FetchPolicy, connector: aiohttp.BaseConnector | None = None) -> None:
        self.policy = policy
        self._connector = connector
        self._session: aiohttp.ClientSession | None = None
        # What robots files and headers call us.
        self._agent = agent_token(policy.user_agent)
        self._resolver = GuardedResolver(policy.allow_hosts, policy.name_servers)
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
            headers=self._headers(),
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

    async def fetch(self, url: str) -> Fetched:
        """Fetch a URL; never raises for what a server or a URL does."""
        wait = self.policy.backoff_s
        for attempt in range(self.policy.retries + 1):
            try:
                return Fetched(await self._once(url))
            except _Refused as refused:
                last = attempt == self.policy.retries or refused.reason not in _RETRIED
                if last:
                    return Fetched(None, refused.reason)
                pause = wait + self._random.uniform(0, wait / 2)
                if refused.retry_after is not None:
                    if refused.retry_after > self.policy.max_retry_after_s:
                        return Fetched(None, refused.reason)
                    pause = max(refused.retry_after, 0.01)
            await asyncio.sleep(pause)
            wait *= 2
        raise AssertionError("the last try returns")

    async def _once(self, url: str) -> bytes:
        """One try, all redirects included, within the deadline."""
        try:
            async with asyncio.timeout(self.policy.timeout_s) as clock:
                try:
                    return await self._follow(url, self._strictly, clock)
                except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
                    if self.policy.proxy or not _breaks_rules(error):
                        raise
                return await self._follow(url, self._leniently, clock)
        except _Refused:
            raise
        except (Exception, asyncio.CancelledError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise _Refused(reason) from error

    async def _follow(self, text: str, ask: _Ask, clock: asyncio.Timeout) -> bytes:
        url = parse_url(text)
        for hop in range(self.policy.max_redirects + 1):
            async with self._get(url, ask, clock, redirected=hop > 0) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = redirect_target(url, response.headers["Location"])
                    continue
                if not 200 <= response.status < 300 or not _is_whole(response):
                    raise _Refused(f"http {response.status}", _retry_after(response))
                if self.policy.opt_out != "off":
                    wish = header_opt_out(response.headers.items(), self._agent)
                    if wish is not None:
                        raise _Refused(wish)
                return await self._body(response)
        raise _Refused("too many redirects")

    @contextlib.asynccontextmanager
    async def _get(
        self, url: yarl.URL, ask: _Ask, clock: asyncio.Timeout, *, redirected: bool
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
                await self._know(host, port, clock)
            async with ask(url) as response:
                yield response
        except Exception as error:
            refused = _address_refused(error)
            if refused is None:
                raise
            prefix = "redirect to a " if redirected else ""
            raise _Refused(f"{prefix}{refused}") from error

    def _strictly(self, url: yarl.URL) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Ask by aiohttp."""
        assert self._session is not None
        return self._session.get(url, allow_redirects=False, proxy=self.policy.proxy or None)

    @contextlib.asynccontextmanager
    async def _leniently(self, url: yarl.URL) -> AsyncIterator[Answer]:
        """Ask by what forgives a server its faults."""
        places = await self._resolver.resolve(url.raw_host or "", url.port or 0, socket.AF_UNSPEC)
        with contextlib.closing(
            await ask(url, places, self._headers() | {"Accept": "*/*"}, self.policy.timeout_s)
        ) as answer:
            yield answer

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": self.policy.user_agent, "Accept-Encoding": "identity"}

    async def _know(self, host: str, port: int, clock: asyncio.Timeout) -> None:
        """Have a name looked up with the clock stopped: how long that takes is not the server's
        doing."""
        loop = asyncio.get_running_loop()
        left = (clock.when() or 0.0) - loop.time()
        clock.reschedule(None)
        await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        clock.reschedule(loop.time() + left)

    async def _body(self, response: Answer) -> bytes:
        limit = self.policy.max_bytes
        if (response.content_length or 0) > limit:
            raise _Refused("too large")
        encoding = response.headers.get("Content-Encoding", "")
        inflate: zlib._Decompress | None = None
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_chunked(_CHUNK):
            if not pieces:
                inflate = _inflater(encoding, piece)
            if inflate is not None:
                piece = inflate.decompress(piece, limit - size + 1)
                if inflate.unconsumed_tail:
                    raise _Refused("decompression bomb")
            size += len(piece)
            if size > limit:
                raise _Refused("too large" if inflate is None else "decompression bomb")
            pieces.append(piece)
        return b"".join(pieces)


def _is_whole(response: Answer) -> bool:
    """Whether an answer is no part of a file, as far as it says."""
    said = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return said is None or (said[1] == "0" and said[3] in ("*", str(int(said[2]) + 1)))


def _retry_after(response: Answer) -> float | None:
    text = response.headers.get("Retry-After", "")
    try:
        return float(text)
    except ValueError:
        return None


def _inflater(encoding: str, begin: bytes) -> zlib._Decompress | None:
    """What undoes the encoding of a server that was asked for none; None where there is none in
    truth, or one that is not known here: whatever opens the bytes decides what they are."""
    name = encoding.strip().lower()
    is_gzip = name in ("gzip", "x-gzip") and begin[:2] == b"\x1f\x8b"
    # RFC 1950: method 8, and a sum that 31 divides.
    is_deflate = name == "deflate" and begin[0] & 15 == 8 and not int.from_bytes(begin[:2]) % 31
    return zlib.decompressobj(wbits=47) if is_gzip or is_deflate else None


def _breaks_rules(error: aiohttp.ClientError) -> bool:
    """Whether an answer came that aiohttp does not take for HTTP; not: one that ends early."""
    cause = error.__cause__
    return isinstance(error, aiohttp.ClientResponseError) or (
        isinstance(cause, aiohttp.http_exceptions.BadHttpMessage)
        and not isinstance(cause, aiohttp.http_exceptions.ContentLengthError)
    )


def _address_refused(error: BaseException) -> AddressRefused | None:
    """The refusal that an error of the client stands for: aiohttp wraps what a resolver raises."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AddressRefused):
        cause = cause.__cause__ or cause.__context__
    return cause


def _reason(error: BaseException) -> str | None:
    """A short countable reason; None for what is not the web's doing."""
    if isinstance(error, asyncio.CancelledError):
        return None
    if isinstance(error, BadUrl):
        return str(error)
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return "name not resolved"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return "tls failure"
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = error.os_error.errno == errno.ECONNREFUSED
        return "connection refused" if refused else "connection failed"
    if isinstance(error, aiohttp.InvalidURL):
        return "invalid url"
    if isinstance(error, (aiohttp.ClientPayloadError, http.client.IncompleteRead)):
        return "truncated transfer"
    if isinstance(error, (aiohttp.ServerDisconnectedError, http.client.RemoteDisconnected)):
        return "connection lost"
    if isinstance(error, (aiohttp.ClientResponseError, http.client.HTTPException)):
        return "broken http response"
    if isinstance(error, (aiohttp.ClientError, OSError)):
        return "connection lost"
    if isinstance(error, (zlib.error, ValueError, UnicodeError)):
        return "broken http response"
    return None


def is_transient(error: str, also: Sequence[str] = ()) -> bool:
    """Whether a failure with this reason may heal."""
    return error in TRANSIENT or error in also
