"""Read answers that break the rules of HTTP as browsers read them.

aiohttp's parser refuses what a rule forbids: a header without a colon, two lengths, more bytes than
were said. Servers of the open web send all of these, with a sound picture behind. The standard
library's `http.client`, which urllib and with it img2dataset use, takes them; it blocks, so it asks
again in a thread for the few servers that need it. It also forgets all headers behind a line that
is none, a wish not to be used among them, so such lines are taken out before it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import io
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import yarl
from aiohttp.abc import ResolveResult
from multidict import CIMultiDict, CIMultiDictProxy

# Lines of a head, and bytes of a line, which `http.client` bounds alike.
_LINES = 512
_LINE_BYTES = 65_536
_ANNOUNCED = re.compile(rb"HTTP/1\.\d +1\d\d\b")


class Body(Protocol):
    """The bytes of an answer, as they come."""

    def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Pieces of at most so many bytes."""


class Answer(Protocol):
    """What the client looks at of an answer, whoever read it."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def content(self) -> Any: ...


class LenientAnswer:
    """An answer that `http.client` reads. Use `ask` to get one, and close it."""

    def __init__(self, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self._sock, self._response = sock, response
        self.status = response.status
        # Bytes of a header are UTF-8 if anything, as aiohttp reads them.
        fields = [
            (name, value.encode("latin-1", "replace").decode("utf-8", "surrogateescape"))
            for name, value in response.headers.items()
        ]
        self.headers = CIMultiDictProxy(CIMultiDict(fields))
        self.content_length = response.length
        self.content: Body = self

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """The body. Raises `IncompleteRead` where less comes than was said."""
        while piece := await asyncio.to_thread(self._response.read, n):
            yield piece
        if self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)

    def close(self) -> None:
        """End the connection, also under a thread that waits for it."""
        _hang_up(self._sock)
        self._response.close()


class _Response(http.client.HTTPResponse):
    """Reads a head without what is no header."""

    def begin(self) -> None:
        """Read status and headers."""
        self.fp = io.BufferedReader(_Mended(self.fp))
        super().begin()


class _Mended(io.RawIOBase):
    """What a server sends, its head mended."""

    def __init__(self, sent: io.BufferedIOBase) -> None:
        self._sent = sent
        self._head = io.BytesIO(_mended_head(sent))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """First of the head, then of the rest."""
        return self._head.readinto(buffer) or self._sent.readinto1(buffer)

    def close(self) -> None:
        self._sent.close()
        super().close()


def _mended_head(sent: io.BufferedIOBase) -> bytes:
    """The lines of a head that are headers; announcements of another head are passed over."""
    lines = _lines(sent)
    while _ANNOUNCED.match(lines[0]):
        lines = _lines(sent)
    kept, dropped = [lines[0]], False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not line.startswith((b" ", b"\t")):
            dropped = not colon or not name.strip()
            # A name with a space behind it is that name: what it asks for is to be heard.
            line = name.rstrip() + colon + value
        if not dropped:
            kept.append(line)
    return b"".join(kept) + b"\r\n"


def _lines(sent: io.BufferedIOBase) -> list[bytes]:
    """A head, without the empty line at its end, and those before it."""
    lines: list[bytes] = []
    for _ in range(_LINES):
        line = sent.readline(_LINE_BYTES)
        if line.strip(b"\r\n"):
            lines.append(line)
        elif lines or not line:
            return lines or [b""]
    raise http.client.HTTPException("a head without end")


async def ask(
    url: yarl.URL,
    places: Sequence[ResolveResult],
    headers: Mapping[str, str],
    timeout_s: float,
    *,
    verify_tls: bool = True,
) -> LenientAnswer:
    """GET a URL from the first of these addresses that answers.

    Raises OSError, or `http.client.HTTPException` for what is no HTTP by any reading.
    """
    error: OSError | None = None
    for place in places:
        sock = socket.socket(place["family"], socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            address = place["host"], place["port"]
            work = functools.partial(_ask, sock, address, url, headers, verify_tls)
            return await asyncio.to_thread(work)
        except OSError as failed:
            # Of several addresses one may not be reached from here, as those of IPv6 often are.
            error = failed
            _hang_up(sock)
        except BaseException:
            # The thread of one that is cancelled wakes up by this.
            _hang_up(sock)
            raise
    raise error or OSError("no address")


def _context(verify_tls: bool) -> ssl.SSLContext:
    """What TLS asks of a server."""
    context = ssl.create_default_context()
    if not verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(
    sock: socket.socket,
    address: tuple[str, int],
    url: yarl.URL,
    headers: Mapping[str, str],
    verify_tls: bool,
) -> LenientAnswer:
    host, port = url.raw_host or "", url.port or 0
    sock.connect(address)
    if url.scheme == "https":
        # It takes the other's place, and closes itself where no connection comes of it.
        sock = _context(verify_tls).wrap_socket(sock, server_hostname=host)
    connection = http.client.HTTPConnection(host, port)
    connection.sock = sock
    connection.response_class = _Response
    try:
        return LenientAnswer(sock, _exchange(connection, url, headers))
    except BaseException:
        _hang_up(sock)
        raise


def _exchange(
    connection: http.client.HTTPConnection, url: yarl.URL, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    host, port = connection.host, connection.port
    connection.putrequest("GET", url.raw_path_qs, skip_host=True, skip_accept_encoding=True)
    named = f"[{host}]" if ":" in host else host
    connection.putheader("Host", named if url.is_default_port() else f"{named}:{port}")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Connection", "close")
    connection.endheaders()
    return connection.getresponse()


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
