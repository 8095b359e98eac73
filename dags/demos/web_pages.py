"""The pages of a little web: what each shows, as which bytes, and how the server answers for it."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from gristmill.dags.demos.web_server import Route
from gristmill.pipelines.decode import Image, decode_rgb

if TYPE_CHECKING:
    from gristmill.model.shapes.scenes import Scene

_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_BOILERPLATE = (
    "Click to enlarge", "IMG_{n}.JPG", "stock photo", "DSC0{n}", "untitled", "image for post",
    "Royalty-free stock vector", "photo {n}", "Add to cart", "thumbnail",
)  # fmt: skip
_PRIVATE = (
    "http://10.0.0.1/x.jpg", "http://169.254.169.254/latest/meta-data/", "http://192.168.0.1/",
    "http://127.0.0.1:1/x.jpg", "http://[::1]:1/x.jpg", "http://2130706433:1/x.jpg",
)  # fmt: skip


@dataclass
class Page:
    """One row to be: what is drawn, how it is served, what is said of it."""

    seed: int
    fault: str
    # Index of the page it is a copy of.
    of: int = -1
    variant: int = 0


def make_page(folder: str, objects: int, i: int, page: Page) -> tuple[str, Route, list[str]]:
    """Draw a page's picture, of at most `objects` objects; returns its path, how it is served, and
    its captions."""
    from gristmill.model.shapes.scenes import caption, draw, make_scene, wrong_caption

    scene = make_scene(page.seed, objects)
    rng = np.random.Generator(np.random.PCG64([page.seed, i, 4]))
    texts = [caption(scene, page.seed)]
    if page.fault == "wrong caption":
        texts = [wrong_caption(scene, rng, objects)]
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


def as_served(scene: Scene, i: int) -> Image:
    """A scene as a clean page of that number shows it: of its size, and compressed."""
    from gristmill.model.shapes.scenes import draw

    side, kind = _size_and_kind(i)
    return decode_rgb(_encode(draw(scene, side), kind))


def _encode(picture: Image, kind: str, quality: int = 92, png_level: int = 3) -> bytes:
    flags = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, png_level],
    }[kind]
    swapped = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(f".{kind}", swapped, flags)[1].tobytes()


def _encoded(page: Page, picture: Image, kind: str) -> tuple[str, bytes]:
    """The bytes of a page, as its fault wants them."""
    side = picture.shape[0]
    fault, n = page.fault, page.variant
    if fault == "pixel copy":
        # The pixels that the original decodes to, without loss, in other bytes.
        original = cv2.imdecode(np.frombuffer(_encode(picture, kind), np.uint8), cv2.IMREAD_COLOR)
        rgb = np.asarray(cv2.cvtColor(np.asarray(original), cv2.COLOR_BGR2RGB), np.uint8)
        return "png", _encode(rgb, "png", png_level=9)
    if fault == "near copy":
        return "jpg", _near_copy(picture, n)
    if fault.startswith("cropped"):
        margin = round(side * (0.03, 0.05, 0.08)[n % 3])
        return "jpg", _encode(picture[margin:-margin, margin:-margin], "jpg")
    if fault.startswith("flipped"):
        return "jpg", _encode(np.ascontiguousarray(picture[:, ::-1]), "jpg")
    if fault == "tiny":
        small = cv2.resize(picture, (24 + n % 32,) * 2, interpolation=cv2.INTER_AREA)
        return kind, _encode(np.asarray(small, np.uint8), kind)
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


def _near_copy(picture: Image, n: int) -> bytes:
    """Encoded again, resized, or brightened."""
    if n % 3 == 0:
        return _encode(picture, "jpg", quality=(30, 45, 60)[n // 3 % 3])
    if n % 3 == 1:
        side = round(picture.shape[0] * (0.5, 0.7, 1.4)[n // 3 % 3])
        resized = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        return _encode(np.asarray(resized, np.uint8), "jpg", quality=85)
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


def _route(page: Page, kind: str, data: bytes) -> Route:
    """How the server answers for a page."""
    fault, n = page.fault, page.variant
    served: Route = {"file": True, "type": _TYPES[kind]}
    routes: dict[str, Callable[[], Route]] = {
        "dead link": lambda: {"status": (404, 404, 404, 410, 500)[n % 5]},
        "refused connection": Route,
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
        return Route(gzip_bomb=True)
    return routes[fault]() if fault in routes else served
