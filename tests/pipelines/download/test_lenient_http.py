"""Answers that break the rules are read as browsers do, within the same bounds as all others."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import yarl
from aiohttp.abc import ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from faulty_web import Answer, head, raw, redirect, slowly, whole
from loopback import serving

from gristmill.pipelines.download import lenient_http
from gristmill.pipelines.download.http_client import Fetched, Fetcher, FetchPolicy

BROKEN = "no colon here"


def fetched(
    answers: dict[str, Answer], path: str = "/", tls: ssl.SSLContext | None = None, **fields: Any
) -> Fetched:
    """What a client has of a server whose answers are written byte by byte."""

    handlers = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            await reply(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        await answers[asked](writer, 0)
        await writer.drain()

    async def run() -> Fetched:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
        async with server:
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            fields.setdefault("allow_hosts", (host,))
            policy = FetchPolicy(retries=0, ports="any", **{"timeout_s": 5.0, **fields})
            async with Fetcher(policy) as fetcher:
                found = await fetcher.fetch(f"{'https' if tls else 'http'}://{host}{path}")
            await asyncio.gather(*handlers)
            return found

    return asyncio.run(run())


def test_a_header_without_a_colon_hides_no_picture() -> None:
    assert fetched({"/": whole(b"picture", BROKEN)}) == Fetched(b"picture")
    assert fetched({"/": raw(head("200 OK", 3) + b"abcdef")}) == Fetched(b"abc"), "more than said"


def test_bounds_hold_for_them_too() -> None:
    assert fetched({"/": whole(bytes(5000), BROKEN)}, max_bytes=4000).error == "too large"
    untold = raw(head("200 OK", None, BROKEN) + bytes(5000))
    assert fetched({"/": untold}, max_bytes=4000).error == "too large"
    short = raw(head("200 OK", 5000, BROKEN) + bytes(4000))
    assert fetched({"/": short}).error == "truncated transfer"
    assert fetched({"/": raw(b"nonsense\r\n\r\n")}).error == "broken http response"
    assert fetched({"/": whole(b"x", BROKEN, status="404 Not")}).error == "http 404"


@pytest.mark.parametrize(
    "lines",
    [
        (BROKEN, "X-Robots-Tag: noai"),
        (BROKEN, " folded", "\tfolded again", "X-Robots-Tag: index,", " noai"),
        ("X-Robots-Tag : noai",),
        (": no name", "x-robots-tag\t: noai"),
    ],
)
def test_a_wish_behind_a_broken_line_is_heard(lines: tuple[str, ...]) -> None:
    assert fetched({"/": whole(b"x", *lines)}).error == "disallowed by robots header"


def test_a_head_of_parts() -> None:
    def chunked(*lines: str) -> bytes:
        return head("200 OK", None, BROKEN, "Transfer-Encoding: chunked", *lines) + (
            b"3\r\nabc\r\n0\r\n\r\n"
        )

    assert fetched({"/": raw(chunked())}) == Fetched(b"abc")
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert fetched({"/": raw(b"\r\n" + hints + hints + chunked())}) == Fetched(b"abc")
    many = fetched({"/": raw(chunked(*[f"X-{i}: {i}" for i in range(99)]))})
    assert many == Fetched(None, "broken http response")


def test_the_deadline_is_of_both_readers_together() -> None:
    sent = []

    async def drip(writer: asyncio.StreamWriter, before: int) -> None:
        writer.write(head("200 OK", 1000, BROKEN))
        for _ in range(1000):
            await asyncio.sleep(0.1)
            writer.write(b"x")
            await writer.drain()
            sent.append(b"x")

    assert fetched({"/": drip}, timeout_s=0.5).error == "timed out"
    assert len(sent) < 1000, "a thread that waits for the server is woken"


def test_redirects_are_followed_and_their_addresses_checked() -> None:
    def moved(to: str) -> Answer:
        return raw(head("302 Found", 0, BROKEN, f"Location: {to}"))

    answers = {"/": moved("/b"), "/b": whole(b"picture"), "/c": moved("/d"), "/d": redirect("/")}
    assert fetched(answers) == Fetched(b"picture")
    assert fetched(answers, "/c") == Fetched(b"picture")
    with serving() as canary:
        away = {"/": moved(canary.url("/x.jpg"))}
        assert fetched(away).error == "redirect to a loopback address"
        assert canary.hits == []


def test_a_name_is_asked_of_the_guarded_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was checked is the one that is connected to."""
    seen: list[str] = []
    ask = lenient_http._ask

    def watched(sock: Any, address: tuple[str, int], *rest: Any) -> Any:
        seen.append(address[0])
        return ask(sock, address, *rest)

    monkeypatch.setattr(lenient_http, "_ask", watched)
    assert fetched({"/": whole(b"picture", BROKEN)}).data == b"picture"
    assert seen == ["127.0.0.1"]


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, own.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    signed = builder.sign(own, hashes.SHA256())
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    answers = {"/": slowly(b"picture", 0, 1)}
    assert fetched(answers, tls=context).error == "tls failure"
    # By the lenient reader alone, too.
    with pytest.raises(ssl.SSLCertVerificationError):
        asked("https", "/", answers, ["127.0.0.1"], tls=context)


def asked(
    scheme: str,
    path: str,
    answers: dict[str, Answer],
    hosts: list[str],
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """What the lenient reader has of the first of these addresses that answers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answers[path](writer, 0)
            await writer.drain()
        writer.close()

    async def run() -> bytes:
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            places: list[ResolveResult] = [
                {"hostname": "localhost", "host": host, "port": port, "proto": 0, "flags": 0,
                 "family": socket.AF_INET6 if ":" in host else socket.AF_INET}
                for host in hosts
            ]  # fmt: skip
            url = yarl.URL(f"{scheme}://localhost:{port}{path}")
            found = await lenient_http.ask(url, places, {}, 5.0)
            with contextlib.closing(found):
                return b"".join([piece async for piece in found.iter_chunked(100)])

    return asyncio.run(run())


def test_of_several_addresses_the_first_that_is_reached_answers() -> None:
    # Documentation's own network (RFC 3849) is reached from nowhere; nobody listens at ::1.
    answers = {"/": whole(b"picture", BROKEN)}
    assert asked("http", "/", answers, ["2001:db8::1", "::1", "127.0.0.1"]) == b"picture"
    with pytest.raises(OSError):
        asked("http", "/", answers, ["::1"])
    with pytest.raises(http.client.HTTPException):
        asked("http", "/", {"/": raw(b"nonsense\r\n\r\n")}, ["127.0.0.1"])
