"""What goes wrong with a transfer, as countable reasons."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import http.client
import re
import socket
import ssl
import time
import zlib
from collections.abc import Mapping

import aiohttp
import aiohttp.http_exceptions

from gristmill.pipelines.download.address import AddressRefused
from gristmill.pipelines.download.urls import BadUrl

# Nobody waits longer than this, and no number larger is a time.
_LONGEST_S = 1e9


class Refused(Exception):
    """A transfer that ends with a countable reason, and perhaps a time to wait."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.retry_after = reason, retry_after


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that an answer asks to wait: a number of them, or a date (RFC 9110, 10.2.3), of
    which the server's own clock tells how far it is; None: it asks for nothing."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return min(float(text), _LONGEST_S)
    then, here = _date(text), _date(headers.get("Date", ""))
    if then is None:
        return None
    if here is None:
        here = time.time() if now is None else now
    return min(max(then - here, 0.0), _LONGEST_S)


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


def breaks_rules(error: aiohttp.ClientError) -> bool:
    """Whether an answer came that aiohttp does not take for HTTP; not: one that ends early."""
    cause = error.__cause__
    return isinstance(error, aiohttp.ClientResponseError) or (
        isinstance(cause, aiohttp.http_exceptions.BadHttpMessage)
        and not isinstance(cause, aiohttp.http_exceptions.ContentLengthError)
    )


def address_refused(error: BaseException) -> AddressRefused | None:
    """The refusal that an error of the client stands for: aiohttp wraps what a resolver raises."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AddressRefused):
        cause = cause.__cause__ or cause.__context__
    return cause


def reason_of(error: BaseException) -> str | None:
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
