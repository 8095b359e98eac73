"""A web with every fault that lists of the field know, down to the bytes of an answer, and what
img2dataset and we are known to make of each otherwise."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import functools
import gzip
import io
import os
import socket
import struct
import threading
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable

import cv2
import numpy as np
import PIL.Image

from gristmill.pipelines.child import Child

# Writes an answer: told how often its page was asked for before.
Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


# What only one of both keeps, and why; docs/coming-from/img2dataset.md says it to users.
ONLY_OURS = {
    "inflated": {"gzip", "deflate"},
    "quoted": {"space", "unicode path"},
    "hints in advance": {"early hints"},
    "more than 100 headers": {"many headers", "set-cookie of 40 kB"},
    "lines before the head": {"line before the head"},
    "read by Pillow": {"icon"},
}
ONLY_THEIRS = {
    "too many redirects": {"eight redirects"},
    "timed out": {"drip"},
    "too large": {"huge body"},
    "disallowed by robots header": {"noindex among others"},
    "scheme not allowed": {"data url", "file url"},
}


@functools.cache
def photo(side: int = 96) -> np.ndarray:
    """BGR, smooth with edges."""
    base = np.random.default_rng(side).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(base, (side * 4 // 3, side))


def encoded(kind: str = ".jpg", pixels: np.ndarray | None = None) -> bytes:
    done, data = cv2.imencode(kind, photo() if pixels is None else pixels)
    assert done
    return bytes(data)


def _saved(kind: str, mode: str = "RGB", frames: int = 1, **options: object) -> bytes:
    image = PIL.Image.fromarray(photo()[:, :, ::-1]).convert(mode)
    more = [image.rotate(90 * i) for i in range(1, frames)]
    memory = io.BytesIO()
    if more:
        options |= {"save_all": True, "append_images": more}
    image.save(memory, kind, **options)
    return memory.getvalue()


def head(
    status: str = "200 OK", length: int | None = None, *lines: str, version: str = "HTTP/1.1"
) -> bytes:
    """A status line and headers; no length: the body ends as the connection does."""
    sized = [] if length is None else [f"Content-Length: {length}"]
    text = "\r\n".join([f"{version} {status}".rstrip(), *sized, "Connection: close", *lines])
    return f"{text}\r\n\r\n".encode("latin-1")


def raw(data: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter, _before: int) -> None:
        writer.write(data)

    return write


def whole(body: bytes, *lines: str, status: str = "200 OK", version: str = "HTTP/1.1") -> Answer:
    return raw(head(status, len(body), *lines, version=version) + body)


def chunked(body: bytes, *, end: bool = True, extension: str = "") -> Answer:
    pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
    sent = b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension.encode(), p) for p in pieces)
    return raw(head("200 OK", None, "Transfer-Encoding: chunked") + sent + b"0\r\n\r\n" * end)


def redirect(to: str, status: str = "302 Found") -> Answer:
    return raw(head(status, 0, f"Location: {to}"))


def once(first: Answer, then: Answer) -> Answer:
    async def write(writer: asyncio.StreamWriter, before: int) -> None:
        await (first if before == 0 else then)(writer, before)

    return write


def reset_after(data: bytes) -> Answer:
    """The connection ends with a reset, not in order."""

    async def write(writer: asyncio.StreamWriter, _before: int) -> None:
        writer.write(data)
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return write


def slowly(body: bytes, pause_s: float, pieces: int, wait_s: float = 0.0) -> Answer:
    async def write(writer: asyncio.StreamWriter, _before: int) -> None:
        await asyncio.sleep(wait_s)
        writer.write(head("200 OK", len(body)))
        step = -(-len(body) // pieces)
        for i in range(0, len(body), step):
            writer.write(body[i : i + step])
            await writer.drain()
            await asyncio.sleep(pause_s)

    return write


@functools.cache
def _huge_png(side: int = 40_000) -> bytes:
    """A sound PNG of one colour in a few megabytes at most, which is gigabytes when decoded."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def pages(timeout_s: float, large: int) -> dict[str, Answer]:
    """All kinds of answers; slow ones beside this timeout, a large one of this many bytes."""
    jpeg, png = encoded(), encoded(".png")
    padded = jpeg + bytes(3000)
    sound = head("200 OK", len(jpeg)) + jpeg
    return {
        **{f"sound {kind}": whole(encoded(f".{kind}")) for kind in ("jpg", "png", "webp", "bmp")},
        "grey jpeg": whole(_saved("JPEG", "L")),
        "cmyk jpeg": whole(_saved("JPEG", "CMYK")),
        "progressive jpeg": whole(_saved("JPEG", progressive=True)),
        "alpha": whole(_saved("PNG", "RGBA")),
        "palette": whole(_saved("PNG", "P")),
        "one bit": whole(_saved("PNG", "1")),
        "gif": whole(_saved("GIF")),
        "moving gif": whole(_saved("GIF", frames=3)),
        "moving webp": whole(_saved("WEBP", frames=3)),
        "moving png": whole(_saved("PNG", frames=3)),
        "tiff": whole(_saved("TIFF")),
        "jpeg 2000": whole(_saved("JPEG2000")),
        "avif": whole(_saved("AVIF")),
        "icon": whole(_saved("ICO")),
        "one pixel": whole(encoded(".png", photo()[:1, :1])),
        "a line of pixels": whole(encoded(".png", np.zeros((1, 500, 3), np.uint8))),
        "more behind the picture": whole(padded),
        "bytes before the picture": whole(b"\r\n" + jpeg),
        "cut jpeg": whole(jpeg[: len(jpeg) * 2 // 3]),
        "cut png": whole(png[: len(png) * 2 // 3]),
        "png with a wrong sum": whole(png[:60] + bytes([png[60] ^ 1]) + png[61:]),
        "noise": whole(np.random.default_rng(0).bytes(4000)),
        "zeros": whole(bytes(4000)),
        "html": whole(b"<html><body>moved</body></html>", "Content-Type: text/html"),
        "svg": whole(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "Content-Type: image/svg+xml"),
        "pdf": whole(b"%PDF-1.4\n%%EOF", "Content-Type: application/pdf"),
        "empty": whole(b""),
        "no content": raw(head("204 No Content")),
        "huge picture": whole(_huge_png()),
        "huge body": whole(jpeg + bytes(large)),
        "wrong type": whole(jpeg, "Content-Type: text/plain"),
        "gzip": whole(gzip.compress(jpeg, mtime=0), "Content-Encoding: gzip"),
        "deflate": whole(zlib.compress(jpeg), "Content-Encoding: deflate"),
        "gzip in name only": whole(jpeg, "Content-Encoding: gzip"),
        "unknown encoding": whole(jpeg, "Content-Encoding: aws-chunked"),
        "no length": raw(head() + jpeg),
        "closed early": raw(head() + jpeg[: len(jpeg) // 2]),
        "shorter than said": raw(head("200 OK", len(jpeg)) + jpeg[: len(jpeg) // 2]),
        "longer than said": raw(head("200 OK", len(jpeg)) + padded),
        "longer than said, kept open": raw(
            head("200 OK", len(jpeg)).replace(b"close", b"keep-alive") + padded
        ),
        "junk for a length": raw(head("200 OK", None, "Content-Length: big") + jpeg),
        "negative length": raw(head("200 OK", None, "Content-Length: -5") + jpeg),
        "empty length": raw(head("200 OK", None, "Content-Length:") + jpeg),
        "two lengths in a line": raw(
            head("200 OK", None, f"Content-Length: {len(jpeg)}, {len(jpeg)}") + jpeg
        ),
        "two different lengths": whole(jpeg, "Content-Length: 9999"),
        "length and chunks": raw(
            head("200 OK", len(jpeg), "Transfer-Encoding: chunked")
            + b"%x\r\n%s\r\n0\r\n\r\n" % (len(jpeg), jpeg)
        ),
        "encoded as itself": whole(jpeg, "Transfer-Encoding: identity"),
        "chunks with bare line feeds": raw(
            head("200 OK", None, "Transfer-Encoding: chunked")
            + b"%x\n%s\n0\n\n" % (len(jpeg), jpeg)
        ),
        "chunk sizes with spaces": raw(
            head("200 OK", None, "Transfer-Encoding: chunked")
            + b"00%X  \r\n%s\r\n0\r\n\r\n" % (len(jpeg), jpeg)
        ),
        "control character in a header": whole(jpeg, "X-Title: a\x01b"),
        "zero in a header": whole(jpeg, "X-Title: a\x00b"),
        "header without name": whole(jpeg, ": value"),
        "space before a colon": whole(jpeg, "X-Title : a"),
        "line before the head": raw(b"\r\n" + sound),
        "two spaces in the status": raw(sound.replace(b"1.1 200 OK", b"1.1  200  OK")),
        "lower case http": raw(sound.replace(b"HTTP/1.1", b"http/1.1")),
        "http 2 in words": raw(sound.replace(b"HTTP/1.1", b"HTTP/2")),
        "icy": raw(sound.replace(b"HTTP/1.1", b"ICY")),
        "brotli in name only": whole(jpeg, "Content-Encoding: br"),
        "chunks": chunked(jpeg),
        "chunks with extensions": chunked(jpeg, extension=";name=value"),
        "chunks without end": chunked(jpeg, end=False),
        "http 1.0": whole(jpeg, version="HTTP/1.0"),
        "no reason": whole(jpeg, status="200"),
        "no head": raw(jpeg),
        "no http": raw(b"HELLO\r\n\r\n" + jpeg),
        "nothing": raw(b""),
        "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        "bare line feeds": raw(head("200 OK", len(jpeg)).replace(b"\r\n", b"\n") + jpeg),
        "header in latin-1": whole(jpeg, "X-Title: caf\xe9"),
        "folded header": whole(jpeg, "X-Policy: one,", " two"),
        "header without colon": whole(jpeg, "nothing of use"),
        "space in a header's name": whole(jpeg, "X Thing: 1"),
        "two equal lengths": whole(jpeg, f"Content-Length: {len(jpeg)}"),
        "many headers": whole(jpeg, *[f"X-{i}: {i}" for i in range(150)]),
        "long header": whole(jpeg, "X-Policy: " + "p" * 64_000),
        "set-cookie of 40 kB": whole(jpeg, *["Set-Cookie: a=" + "c" * 400 for _ in range(99)]),
        "early hints": raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + sound),
        "continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n" + sound),
        **{
            f"status {status}": whole(jpeg, status=f"{status} Said")
            for status in (
                *(201, 202, 203, 206, 300, 304, 400, 401, 403, 404, 410, 418, 429, 451),
                *(500, 502, 503, 504, 520, 599),
            )
        },
        "part of it": whole(jpeg[:500], "Content-Range: bytes 0-499/9999", status="206 Partial"),
        "whole as a part": whole(
            jpeg, f"Content-Range: bytes 0-{len(jpeg) - 1}/{len(jpeg)}", status="206 Partial"
        ),
        **{
            f"redirect {status}": redirect("/sound jpg".replace(" ", "%20"), f"{status} Moved")
            for status in (301, 302, 303, 307, 308)
        },
        "redirect to nothing": raw(head("302 Found", 0)),
        "redirect to no address": redirect("http://"),
        "redirect beside": redirect("sound%20png"),
        "redirect to a fragment": redirect("/sound%20png#top"),
        "redirect with a space": redirect("/sound png"),
        "redirect without end": redirect("/redirect%20without%20end"),
        "redirect to a file": redirect("file:///etc/passwd"),
        "five redirects": redirect("/hop4"),
        "eight redirects": redirect("/hop7"),
        **{f"hop{i}": redirect(f"/hop{i - 1}") for i in range(1, 8)},
        "hop0": whole(jpeg),
        "once 503": once(whole(b"", status="503 Busy"), whole(jpeg)),
        "once reset": once(reset_after(b""), whole(jpeg)),
        "once cut": once(raw(head("200 OK", len(jpeg)) + jpeg[:100]), whole(jpeg)),
        "reset": reset_after(b""),
        "reset in the body": reset_after(head("200 OK", len(jpeg)) + jpeg[:1000]),
        "drip": slowly(jpeg, timeout_s / 4, 6),
        "silence": slowly(jpeg, 0, 1, wait_s=timeout_s * 1.6),
        "silence in the body": slowly(jpeg, timeout_s * 1.6, 2),
        "slow": slowly(jpeg, timeout_s / 10, 3),
        "noai": whole(jpeg, "X-Robots-Tag: noai"),
        "noindex among others": whole(jpeg, "X-Robots-Tag: max-snippet:-1, NoIndex"),
        "another's noai": whole(jpeg, "X-Robots-Tag: otherbot: noai"),
    }


# Other ways to ask for a sound JPEG, and some that ask for nothing.
SPELLED = {
    "space": "http://{host}/a b.jpg",
    "unicode path": "http://{host}/b\u00fccher.jpg",
    "line end": "http://{host}/a%20b.jpg\n",
    "backslash": "http://{host}/a\\b.jpg",
    "quoted": "http://{host}/%7Ea%2fb.jpg?x=%3D&y=a%2Bb",
    "pipes": "http://{host}/a.jpg?q=a|b",
    "fragment": "http://{host}/a.jpg#top",
    "upper case": "HTTP://{host}/a.jpg",
    "only a question": "http://{host}?a.jpg",
    "no scheme": "{host}/a.jpg",
    "scheme left out": "//{host}/a.jpg",
    "no host": "http:///a.jpg",
    "no such port": "http://127.0.0.1:99999/a.jpg",
    "nobody there": "http://127.0.0.1:9/a.jpg",
    "no such name": "http://nobody.invalid/a.jpg",
    "tls where there is none": "https://{host}/a.jpg",
    "data url": "data:image/png;base64,{base64}",
    "ftp": "ftp://{host}/a.jpg",
    "file url": "file://{file}",
    "empty address": "",
}


class FaultyWeb:
    """Serves the pages, and a sound JPEG at any other path, from a process of its own; a context
    manager."""

    def __init__(self, timeout_s: float, large: int) -> None:
        self._child = Child(functools.partial(_Service, timeout_s, large))
        self._names = [name for name in pages(timeout_s, 0) if not name.startswith("hop")]
        self.port = 0

    def __enter__(self) -> FaultyWeb:
        self.port = self._child.call("start", deadline_s=60.0)
        return self

    def __exit__(self, *error: object) -> None:
        self._child.close()

    def forget(self) -> None:
        """As if nothing had been asked for."""
        self._child.call("forget", deadline_s=10.0)

    def urls(self, folder: str) -> dict[str, str]:
        """The address of each kind of page; a file that one of them names is put into a folder."""
        host, file = f"127.0.0.1:{self.port}", os.path.join(folder, "own.png")
        with open(file, "wb") as target:
            target.write(encoded(".png"))
        text = base64.b64encode(encoded(".png")).decode()
        spelled = {
            name: url.format(host=host, base64=text, file=file) for name, url in SPELLED.items()
        }
        return {name: f"http://{host}/{urllib.parse.quote(name)}" for name in self._names} | spelled


class _Service:
    """The server itself, in the child."""

    def __init__(self, timeout_s: float, large: int) -> None:
        self._answers = {
            f"/{urllib.parse.quote(name)}": page for name, page in pages(timeout_s, large).items()
        }
        self._asked: collections.Counter[str] = collections.Counter()
        self._port = 0
        self._ready = threading.Event()

    def start(self) -> int:
        """Listen on loopback; returns the port."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        assert self._ready.wait(20)
        return self._port

    def forget(self) -> None:
        self._asked.clear()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1000)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await asyncio.Event().wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            asked = request.split(b" ", 2)[1].decode("latin-1")
            before, self._asked[asked] = self._asked[asked], self._asked[asked] + 1
            answer = self._answers.get(asked.partition("?")[0]) or whole(encoded())
            await answer(writer, before)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
