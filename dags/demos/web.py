"""A little web with planted faults: drawn pictures, a server on loopback, and the truth about
each row."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web

from gristmill.errors import RunError
from gristmill.pipelines.child import Child
from gristmill.pipelines.decode import Image, decode_rgb
from gristmill.pipelines.schema import make_uid, normalise_url

HOST = "127.0.0.1"
# Nothing listens there; the demo allows it, so that connections are refused and not addresses.
CLOSED_PORT = 9
CLEAN = "clean"
_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_BOILERPLATE = (
    "Click to enlarge", "IMG_{n}.JPG", "stock photo", "DSC0{n}", "untitled", "image for post",
    "Royalty-free stock vector", "photo {n}", "Add to cart", "thumbnail",
)  # fmt: skip
_PRIVATE = (
    "http://10.0.0.1/x.jpg", "http://169.254.169.254/latest/meta-data/", "http://192.168.0.1/",
    "http://127.0.0.1:1/x.jpg", "http://[::1]:1/x.jpg", "http://2130706433:1/x.jpg",
)  # fmt: skip

# Fault -> rows for every 2,400 clean pictures.
PLANTED = {
    "dead link": 60,
    "refused connection": 5,
    "drip": 3,
    "html for image": 20,
    "empty body": 10,
    "truncated file": 30,
    "decompression bomb": 8,
    "redirect to a private address": 12,
    "redirect loop": 5,
    "robots header": 10,
    "tiny": 30,
    "blank": 30,
    "extreme aspect": 30,
    "boilerplate caption": 60,
    "wrong caption": 200,
    "exact copy": 60,
    "pixel copy": 20,
    "near copy": 120,
    "cropped copy (reported apart)": 20,
    "flipped copy (reported apart)": 20,
    "repeated row": 15,
}
# Rows that look odd and must be kept.
CONTROLS = {"redirect": 20, "busy once": 10, "broken once": 10, "second caption": 40}


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


@dataclass
class _Page:
    """One row to be: what is drawn, how it is served, what is said of it."""

    seed: int
    fault: str
    # Index of the page it is a copy of.
    of: int = -1
    variant: int = 0


def build_web(folder: str, *, scenes: int = 2400, seed: int = 0, port: int) -> Web:
    """Draw the site, its list of URLs and its truth, all of them functions of the arguments."""
    pages = _pages(scenes, seed)
    os.makedirs(os.path.join(folder, "site"), exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        make = functools.partial(_make_page, folder)
        made = list(pool.map(make, range(len(pages)), pages, chunksize=64))
    routes: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for i, (page, (path, route, texts)) in enumerate(zip(pages, made, strict=True)):
        if route:
            routes[path] = route
        to = CLOSED_PORT if page.fault == "refused connection" else port
        base = f"http://{HOST}:{to}"
        for text in texts:
            url = base + path
            uid = make_uid("url", normalise_url(url), text)
            group = page.of if page.of >= 0 else i
            rows.append(
                {"url": url, "caption": text, "uid": uid, "fault": page.fault, "group": group}
            )
    order = np.random.Generator(np.random.PCG64([seed, 3])).permutation(len(rows))
    rows = [rows[i] for i in order]
    rows += [{**row, "fault": "repeated row"} for row in _repeated(rows, scenes)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.select(["url", "caption"]), os.path.join(folder, "urls.parquet"))
    pq.write_table(table.select(["uid", "url", "fault", "group"]), _truth_path(folder))
    with open(os.path.join(folder, "routes.json"), "w", encoding="utf-8") as file:
        json.dump(routes, file)
    return Web(folder, port)


def _truth_path(folder: str) -> str:
    return os.path.join(folder, "truth.parquet")


def _repeated(rows: list[dict[str, Any]], scenes: int) -> list[dict[str, Any]]:
    clean = [row for row in rows if row["fault"] == CLEAN]
    return clean[: _share(PLANTED["repeated row"], scenes)]


def _share(count: int, scenes: int) -> int:
    return max(1, round(count * scenes / 2400))


def _pages(scenes: int, seed: int) -> list[_Page]:
    first = 10**7 * (seed + 1)
    pages = [_Page(first + i, CLEAN) for i in range(scenes)]
    copies = 0
    for fault, count in {**PLANTED, **CONTROLS}.items():
        if fault == "repeated row":
            continue
        for n in range(_share(count, scenes)):
            page = _Page(first + len(pages), fault, variant=n)
            if "copy" in fault:
                # Copies of the first clean pictures, each of another one.
                page.of = copies % scenes
                page.seed = pages[page.of].seed
                copies += 1
            pages.append(page)
    return pages


def _make_page(folder: str, i: int, page: _Page) -> tuple[str, dict[str, Any], list[str]]:
    """Draw a page's picture; returns its path, how it is served, and its captions."""
    from gristmill.model.shapes.scenes import caption, draw, make_scene, wrong_caption

    scene = make_scene(page.seed)
    rng = np.random.Generator(np.random.PCG64([page.seed, i, 4]))
    texts = [caption(scene, page.seed)]
    if page.fault == "wrong caption":
        texts = [wrong_caption(scene, rng)]
    elif page.fault == "boilerplate caption":
        text = _BOILERPLATE[page.variant % len(_BOILERPLATE)]
        texts = [text.format(n=1000 + page.variant)]
    elif page.fault == "second caption":
        texts = [caption(scene, page.seed), caption(scene, page.seed + 1)]
    side, kind = _size_and_kind(page.of if page.of >= 0 else i)
    if page.fault == "extreme aspect":
        # A strip of it must not be tiny too.
        side = 256
    picture = draw(scene, side)
    kind, data = _encoded(page, picture, kind)
    path = f"/{i:06d}.{kind}"
    route = _route(page, kind, data)
    if "file" in route:
        with open(os.path.join(folder, "site", path[1:]), "wb") as file:
            file.write(data)
    return path, route, texts


def _size_and_kind(i: int) -> tuple[int, str]:
    side = (128, 144, 160, 192)[i % 4]
    kind = "png" if i % 10 == 7 else "webp" if i % 10 == 3 else "jpg"
    return side, kind


def as_served(seed: int, i: int) -> Image:
    """The scene of a seed as a clean page of that number shows it: of its size, and compressed."""
    from gristmill.model.shapes.scenes import draw, make_scene

    side, kind = _size_and_kind(i)
    return decode_rgb(_encode(draw(make_scene(seed), side), kind))


def _encode(picture: Any, kind: str, quality: int = 92, png_level: int = 3) -> bytes:
    flags = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, png_level],
    }[kind]
    swapped: Any = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(f".{kind}", swapped, flags)[1].tobytes()


def _encoded(page: _Page, picture: Any, kind: str) -> tuple[str, bytes]:
    """The bytes of a page, as its fault wants them."""
    side = picture.shape[0]
    fault, n = page.fault, page.variant
    if fault == "pixel copy":
        # The pixels that the original decodes to, without loss, in other bytes.
        original = cv2.imdecode(np.frombuffer(_encode(picture, kind), np.uint8), cv2.IMREAD_COLOR)
        rgb: Any = cv2.cvtColor(np.asarray(original), cv2.COLOR_BGR2RGB)
        return "png", _encode(rgb, "png", png_level=9)
    if fault == "near copy":
        return "jpg", _near_copy(picture, n)
    if fault.startswith("cropped"):
        margin = round(side * (0.03, 0.05, 0.08)[n % 3])
        return "jpg", _encode(picture[margin:-margin, margin:-margin], "jpg")
    if fault.startswith("flipped"):
        return "jpg", _encode(np.ascontiguousarray(picture[:, ::-1]), "jpg")
    if fault == "tiny":
        small: Any = cv2.resize(picture, (24 + n % 32,) * 2, interpolation=cv2.INTER_AREA)
        return kind, _encode(small, kind)
    if fault == "blank":
        rng = np.random.Generator(np.random.PCG64([page.seed, 5]))
        colour = rng.integers(30, 226, 3)
        noise = rng.integers(-1, 2, (side, side, 3)) if n % 2 else 0
        blank = np.clip(np.broadcast_to(colour, (side, side, 3)) + noise, 0, 255).astype(np.uint8)
        return kind, _encode(blank, kind)
    if fault == "extreme aspect":
        height = round(side * (0.5, 0.42, 0.36)[n % 3])
        strip = np.hstack([picture, picture])[:height]
        turned = strip if n % 2 else strip.transpose(1, 0, 2)
        return kind, _encode(np.ascontiguousarray(turned), kind)
    if fault == "truncated file":
        kind = ("jpg", "png", "webp")[n % 3]
        data = _encode(picture, kind)
        return kind, data[: int(len(data) * (0.3 + 0.6 * (n % 7) / 7))]
    if fault == "decompression bomb" and n % 2 == 0:
        return "png", huge_png(30_000, 30_000)
    return kind, _encode(picture, kind)


def _near_copy(picture: Any, n: int) -> bytes:
    """Encoded again, resized, or brightened."""
    if n % 3 == 0:
        return _encode(picture, "jpg", quality=(30, 45, 60)[n // 3 % 3])
    if n % 3 == 1:
        side = round(picture.shape[0] * (0.5, 0.7, 1.4)[n // 3 % 3])
        resized: Any = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        return _encode(resized, "jpg", quality=85)
    gain, offset = ((1.25, 0), (1.0, 30), (0.75, 0))[n // 3 % 3]
    brighter = np.clip(picture.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)
    return _encode(brighter, "jpg", quality=90)


def huge_png(width: int, height: int) -> bytes:
    """A tiny PNG file that claims to be huge."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _route(page: _Page, kind: str, data: bytes) -> dict[str, Any]:
    """How the server answers for a page."""
    fault, n = page.fault, page.variant
    served = {"file": True, "type": _TYPES[kind]}
    routes: dict[str, Callable[[], dict[str, Any]]] = {
        "dead link": lambda: {"status": (404, 404, 404, 410, 500)[n % 5]},
        "refused connection": dict,
        "drip": lambda: {"drip": True},
        "html for image": lambda: {"text": "<!DOCTYPE html><html><body>Not found</body></html>"},
        "empty body": lambda: {"text": ""},
        "redirect to a private address": lambda: {"location": _PRIVATE[n % len(_PRIVATE)]},
        "redirect loop": lambda: {"loop": True},
        "robots header": lambda: {**served, "robots": "noai, noimageai"},
        "redirect": lambda: {**served, "via": True},
        "busy once": lambda: {**served, "once": 429},
        "broken once": lambda: {**served, "once": 503},
    }
    if fault == "decompression bomb" and n % 2 == 1:
        return {"gzip_bomb": True}
    return routes[fault]() if fault in routes else served


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
            self._routes: dict[str, dict[str, Any]] = json.load(file)
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
