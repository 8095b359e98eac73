"""The server of a little web: answers on loopback as the faults want, in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import threading
import zlib
from dataclasses import dataclass
from typing import TypedDict

from aiohttp import web

from gristmill.errors import RunError
from gristmill.pipelines.child import Child

HOST = "127.0.0.1"
# Nothing listens there; the demo allows it, so that connections are refused and not addresses.
CLOSED_PORT = 9


class Route(TypedDict, total=False):
    """How the server answers for a path; without any of these, or no route at all: not found."""

    # Any of our files, of this media type, with this X-Robots-Tag.
    file: bool
    type: str
    robots: str
    # A redirect leads to the file; the first request gets this status.
    via: bool
    once: int
    # Instead of a file: a status, text for a browser, a redirect away, a redirect without end.
    status: int
    text: str
    location: str
    loop: bool
    # A byte a second; 120 MB of zeros in a small body.
    drip: bool
    gzip_bomb: bool


@dataclass(frozen=True)
class Web:
    """Where a little web lies."""

    folder: str
    port: int

    @property
    def urls(self) -> str:
        """Parquet of url and caption: what a user would start from."""
        return os.path.join(self.folder, "urls.parquet")

    @property
    def truth(self) -> str:
        """Parquet of uid, fault and group."""
        return os.path.join(self.folder, "truth.parquet")


@functools.cache
def _gzip_bomb() -> bytes:
    """120 MB of zeros in about as many kilobytes."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1_000_000)
    return b"".join(packer.compress(zeros) for _ in range(120)) + packer.flush()


class WebServer:
    """Serves a little web from a process of its own; a context manager. Dies with its parent."""

    def __init__(self, found: Web) -> None:
        self._child = Child(functools.partial(_Service, found.folder, found.port))

    def __enter__(self) -> WebServer:
        problem = self._child.call("start", deadline_s=30.0)
        if problem:
            self._child.close()
            raise RunError(problem)
        return self

    def hits(self) -> dict[str, int]:
        """Requests by path."""
        counts: dict[str, int] = self._child.call("hits", deadline_s=10.0)
        return counts

    def __exit__(self, *error: object) -> None:
        self._child.close()


class _Service:
    """The server itself, in the child."""

    def __init__(self, folder: str, port: int) -> None:
        self._folder, self._port = folder, port
        with open(os.path.join(folder, "routes.json"), encoding="utf-8") as file:
            self._routes: dict[str, Route] = json.load(file)
        self._hits: dict[str, int] = {}
        self._ready = threading.Event()
        self._problem = ""

    def start(self) -> str:
        """Listen; returns what is wrong, if anything."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait(20)
        return self._problem

    def hits(self) -> dict[str, int]:
        """Requests by path."""
        return dict(self._hits)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self._port).start()
        except OSError as error:
            self._problem = (
                f"port {self._port} on {HOST} is taken ({error}); stop what holds it, or remove "
                "the demo's folder to draw it anew on another port"
            )
        self._ready.set()
        if not self._problem:
            await asyncio.Event().wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self._hits[path] = self._hits.get(path, 0) + 1
        direct = path.startswith("/direct/")
        path = path.removeprefix("/direct") if direct else path
        route = self._routes.get(path)
        if route is None:
            return web.Response(status=404)
        if "status" in route:
            return web.Response(status=route["status"])
        if "text" in route:
            return web.Response(text=route["text"], content_type="text/html")
        if "location" in route:
            return web.Response(status=302, headers={"Location": route["location"]})
        if "loop" in route:
            return web.Response(status=302, headers={"Location": path + "?again"})
        if route.get("via") and not direct:
            return web.Response(status=301, headers={"Location": "/direct" + path})
        if "once" in route and self._hits[path] == 1:
            headers = {"Retry-After": "0"} if route["once"] == 429 else {}
            return web.Response(status=route["once"], headers=headers)
        if "gzip_bomb" in route:
            return web.Response(body=_gzip_bomb(), headers={"Content-Encoding": "gzip"})
        if "drip" in route:
            return await self._drip(request)
        headers = {"X-Robots-Tag": route["robots"]} if "robots" in route else {}
        with open(os.path.join(self._folder, "site", path[1:]), "rb") as file:
            return web.Response(body=file.read(), content_type=route["type"], headers=headers)

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """A byte a second, for as long as anybody listens."""
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        response.content_length = 100_000
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(600):
                await response.write(b"\xff")
                await asyncio.sleep(1)
        return response
