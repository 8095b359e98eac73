"""Certificates that do not verify: a failure, or by wish a row that says so."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gristmill.pipelines.download.fetch_policy import Fetched, FetchPolicy
from gristmill.pipelines.download.http_client import Fetcher
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.videos import DownloadVideo
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row

SOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndata"
# What aiohttp does not take for HTTP.
ODD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\nnothing of use\r\n\r\ndata"


def own_certificate(folder: Path) -> Path:
    """Signed by itself alone, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "own.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextlib.contextmanager
def tls_server(path: Path, answer: bytes) -> Iterator[str]:
    """Where a server answers so, over TLS, to all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    ready, stop = threading.Event(), threading.Event()
    place: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        place.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield place[0]
    finally:
        stop.set()
        thread.join(20)


def fetch(host: str, **fields: Any) -> Fetched:
    rules = FetchPolicy(allow_hosts=(host,), retries=0, timeout_s=100.0, **fields)

    async def run() -> Fetched:
        async with Fetcher(rules) as client:
            return await client.fetch(f"https://{host}/x")

    return asyncio.run(run())


# A loop that ends while aiohttp still says goodbye to a server leaves its transport, which is to be
# told here and not in another test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("answer", [SOUND, ODD])
def test_a_certificate_of_one_s_own_is_a_failure_or_told_apart(
    tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_certificate(tmp_path)
    with tls_server(path, answer) as host:
        assert fetch(host) == Fetched(None, "tls failure")
        assert fetch(host, verify_tls=False) == Fetched(b"data", tls="unverified")
        # One that verifies is no exception, whatever is allowed.
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        import aiohttp.connector

        context = ssl.create_default_context()
        monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", context)
        assert fetch(host, verify_tls=False) == Fetched(b"data", tls="verified")
        assert fetch(host) == Fetched(b"data")
    gc.collect()


def test_the_column_is_there_where_it_says_something(tmp_path: Path) -> None:
    for stage in (Download, DownloadVideo):
        assert "tls" not in stage().writes().names and not stage().notes()
        unverified = stage(verify_tls=False)
        assert "tls" in unverified.writes().names and "tls" in unverified.describes()
        assert "TLS is not verified" in unverified.notes()[0]
    with tls_server(own_certificate(tmp_path), SOUND) as host:
        rows = RowBuilder("list")
        rows.add(url_row(f"https://{host}/x"))
        stage = Download(allow_hosts=(host,), verify_tls=False, reencode="never")
        found = stage(next(rows.take(all_rows=True))).to_pylist()
    assert found[0]["status"] == "failed_to_decode" and found[0]["tls"] == "unverified"


def test_a_run_and_its_plan_say_that_tls_is_not_verified(tmp_path: Path) -> None:
    from gristmill.dags.recipes.image_text import image_text
    from gristmill.dags.settings import apply_settings

    dag = image_text(path="urls.csv")
    assert dag.warnings() == []
    dag = apply_settings(dag, ["download.verify_tls=false"])
    assert [line.startswith("download: TLS is not verified") for line in dag.warnings()] == [True]
