"""Download: fetch the bytes of each row, check, decode and resize them, once for each image."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.child import Child, ChildDied, ChildSilent
from gristmill.pipelines.fetch import USER_AGENT, Fetcher, FetchPolicy, is_transient
from gristmill.pipelines.pointer import PointerError, read_pointers
from gristmill.pipelines.resize import Boxes, Picture, ResizeSettings, quiet_worker
from gristmill.pipelines.robots import NO_AI
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    PENDING,
    POISONED,
    ROW,
    with_columns,
)
from gristmill.pipelines.stage import Map, Needs, execution, require_choice

RESIZE_MODES = ("no", "keep_ratio", "center_crop", "border", "keep_ratio_largest")
_OWN = pa.schema(
    [
        # jpg, png, webp: of the bytes stored.
        pa.field("format", pa.string()),
        # EXIF tag of what was received; 1: upright, or no tag.
        pa.field("orientation", pa.int8()),
        pa.field("received_bytes", pa.int64()),
        pa.field("image", pa.binary()),
    ]
)
_REPLACED = ("status", "error", "sha256", "width", "height", "original_width", "original_height")
SCHEMA = pa.schema([*[ROW.field(name) for name in _REPLACED], *_OWN])
NO_BOXES = "no blur boxes"
# Finished pictures waiting to be written, and bytes waiting to be decoded.
_WAITING_PICTURES = 64
_WAITING_BYTES = 256 * 2**20
# Decoding children of this process that are free: configuration -> children.
_IDLE: dict[str, list[Child]] = {}


@dataclass(frozen=True, kw_only=True)
class Download(Map):
    """Fetch http(s) URLs (or read the pointers of rows that lie in their source) and resize.

    Every limit is a field. Rows that share an image are fetched once. EXIF, GPS and ICC are never
    stored. A picture that crashes, hangs or fills its decoder ends as `poisoned`, alone.
    """

    libraries: ClassVar[tuple[str, ...]] = (
        "img2dataset", "albumentations", "opencv-python-headless", "pillow",
    )  # fmt: skip

    # Pixels; which side is meant depends on `resize_mode`.
    image_size: int = 256
    # no, keep_ratio (smaller side), center_crop, border, keep_ratio_largest (larger side).
    resize_mode: str = "keep_ratio_largest"
    # Leave smaller pictures at their size.
    resize_only_if_bigger: bool = True
    upscale_interpolation: str = "lanczos"
    downscale_interpolation: str = "area"
    # jpg, png or webp.
    encode_format: str = "jpg"
    # 0-100; for png the compression, 0-9.
    encode_quality: int = 95
    # Keep the bytes of a picture of this format that needs no resizing.
    skip_reencode: bool = False
    # "always" resizes; "never" passes bytes through, without metadata, as they came.
    reencode: str = "always"
    # With reencode=never: keep jpg, png and webp side by side; else others are brought into
    # `encode_format` at full size.
    mixed: bool = False
    # Turn pictures upright as their EXIF tag says, before resizing.
    orient: bool = True
    # "exact": as img2dataset. "fast": JPEGs are decoded at 1/2, 1/4 or 1/8 where that still covers
    # the target: two to four times faster, pixels differ by a few grey levels (see benchmarks/).
    decode: str = "exact"
    # Smaller side, pixels; 0: no limit.
    min_image_size: int = 0
    # Pixels; 0: no limit.
    max_image_area: int = 0
    # Longer side by shorter side; 0: no limit.
    max_aspect_ratio: float = 0.0
    # Column of the source with boxes to blur, faces for instance: lists of [left, top, right,
    # bottom], each 0..1 of the upright picture. A row without them fails; an empty list is none.
    blur_boxes: str = ""
    # Pixels, read from the header before anything is decoded.
    max_pixels: int = 89_000_000
    # Bytes of one transfer, inflated.
    max_bytes: int = 50_000_000
    # Seconds for one try: name, connection, redirects and the whole body.
    timeout_s: float = 15.0
    max_redirects: int = 5
    # Further tries for what may heal: connection, 429 with Retry-After, 5xx.
    retries: int = 2
    # "host" or "host:port" that may lie in a private network.
    allow_hosts: tuple[str, ...] = ()
    # URL of a trusted proxy.
    proxy: str = ""
    user_agent: str = USER_AGENT
    # X-Robots-Tag directives that are respected; none: the header is ignored.
    robots: tuple[str, ...] = NO_AI
    # Seconds for decoding and resizing one picture.
    decode_deadline_s: float = 20.0
    # GiB that decoding one picture may take.
    decode_memory_gb: float = 2.0
    # Transfers at once, in all and to one host and port.
    connections: int = execution(64)
    per_host: int = execution(16)
    # Decoding processes; 0: as many as this process has cores.
    decoders: int = execution(0)

    def writes(self) -> pa.Schema:
        """Status, sizes, digest and the picture."""
        return SCHEMA

    def reads(self) -> tuple[str, ...]:
        """The columns of a row."""
        base = ("uid", "image_id", "url", "pointer", "status")
        return (*base, "meta") if self.blur_boxes else base

    def needs(self) -> Needs:
        """One core drives the transfers; the decoders are extra."""
        return Needs(cpus=1.0, memory_gb=2.0)

    def heals(self, status: str, error: str) -> bool:
        """Whether a failed row may succeed on another day."""
        return status == FAILED_TO_DOWNLOAD and is_transient(error)

    def check(self) -> None:
        """Validate the choices, as img2dataset's Resizer would, and the limits."""
        require_choice(self, "resize_mode", RESIZE_MODES)
        require_choice(self, "encode_format", ("jpg", "png", "webp"))
        require_choice(self, "reencode", ("always", "never"))
        require_choice(self, "decode", ("exact", "fast"))
        for name in ("upscale_interpolation", "downscale_interpolation"):
            require_choice(
                self, name, ("nearest", "linear", "bilinear", "cubic", "bicubic", "area",
                             "lanczos", "lanczos4"),
            )  # fmt: skip
        if self.blur_boxes and (self.reencode == "never" or self.skip_reencode):
            raise ConfigurationError(
                "blur_boxes changes pixels: it goes neither with reencode=never nor skip_reencode"
            )
        most = 9 if self.encode_format == "png" else 100
        if not 0 <= self.encode_quality <= most:
            raise ConfigurationError(
                f"encode_quality is {self.encode_quality}; for {self.encode_format} it lies "
                f"between 0 and {most}"
            )
        for name in ("image_size", "timeout_s", "max_bytes", "max_pixels", "connections"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be above 0")

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield rows as they are done; rows of one image come together."""
        groups: dict[str, list[int]] = {}
        settled: list[int] = []
        statuses = table["status"].to_pylist()
        for i, image_id in enumerate(table["image_id"].to_pylist()):
            if statuses[i] == PENDING:
                groups.setdefault(image_id, []).append(i)
            else:
                settled.append(i)
        if settled:
            yield _finish(table.take(pa.array(settled, pa.int64())), None, b"")
        if not groups:
            return
        for rows, picture, data in self._results(table, list(groups.values())):
            yield _finish(table.take(pa.array(rows, pa.int64())), picture, data)

    def _results(
        self, table: pa.Table, groups: list[list[int]]
    ) -> Iterator[tuple[list[int], Picture, bytes]]:
        """(rows, picture, received bytes) of each image, from a thread with its own event loop."""
        results: queue.Queue[Any] = queue.Queue(_WAITING_PICTURES)
        stop = threading.Event()
        work = _Work(self, table, groups, results, stop)
        thread = threading.Thread(target=work.run, daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    results.get_nowait()
                thread.join(0.02)

    def policy(self) -> FetchPolicy:
        """The bounds of the HTTP client."""
        return FetchPolicy(
            timeout_s=self.timeout_s,
            max_bytes=self.max_bytes,
            max_redirects=self.max_redirects,
            retries=self.retries,
            connections=self.connections,
            per_host=self.per_host,
            allow_hosts=self.allow_hosts,
            proxy=self.proxy,
            user_agent=self.user_agent,
            robots=self.robots,
        )

    def resize_settings(self) -> ResizeSettings:
        """What the decoding children do."""
        unlimited = float("inf")
        return ResizeSettings(
            image_size=self.image_size,
            resize_mode=self.resize_mode,
            resize_only_if_bigger=self.resize_only_if_bigger,
            upscale_interpolation=self.upscale_interpolation,
            downscale_interpolation=self.downscale_interpolation,
            encode_format=self.encode_format,
            encode_quality=self.encode_quality,
            skip_reencode=self.skip_reencode,
            min_image_size=self.min_image_size,
            max_image_area=self.max_image_area or unlimited,
            max_aspect_ratio=self.max_aspect_ratio or unlimited,
            pass_through=self.reencode == "never",
            mixed=self.mixed,
            orient=self.orient,
            fast=self.decode == "fast",
            blur=bool(self.blur_boxes),
            max_pixels=self.max_pixels,
        )

    def make_worker(self) -> Callable[[], Any]:
        """Factory of what decodes, run in each child."""
        return functools.partial(quiet_worker, self.resize_settings())


class _Work:
    """Fetches and decodes all images of a table inside one thread's event loop."""

    def __init__(
        self,
        stage: Download,
        table: pa.Table,
        groups: list[list[int]],
        results: queue.Queue[Any],
        stop: threading.Event,
    ) -> None:
        self.stage, self.groups, self.results, self.stop = stage, groups, results, stop
        self.urls = table["url"].to_pylist()
        self.pointers = table["pointer"].to_pylist()
        self.meta = table["meta"].to_pylist() if stage.blur_boxes else []
        count = stage.decoders or len(os.sched_getaffinity(0))
        self.children: queue.SimpleQueue[Child] = queue.SimpleQueue()
        # Children outlive one part: starting them anew would cost half a second each.
        self.idle = _IDLE.setdefault(repr(stage), [])
        for _ in range(count):
            try:
                child = self.idle.pop()
            except IndexError:
                child = Child(stage.make_worker(), memory_gb=stage.decode_memory_gb)
            self.children.put(child)
        self.pool = ThreadPoolExecutor(count)
        self.count = count
        self.waiting_bytes = 0

    def run(self) -> None:
        """The thread's whole life."""
        try:
            asyncio.run(self._all())
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
            for _ in range(self.count):
                self.idle.append(self.children.get())

    def _put(self, item: Any) -> None:
        """Hand over a result; a reader that has gone is not waited for."""
        while not self.stop.is_set():
            try:
                self.results.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    async def _all(self) -> None:
        here = [rows for rows in self.groups if self.urls[rows[0]] is None or self._local(rows)]
        local = {id(rows) for rows in here}
        away = [rows for rows in self.groups if id(rows) not in local]
        if here:
            await self._read_local(here)
        if away:
            async with Fetcher(self.stage.policy()) as fetcher:
                pending = iter(away)
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(min(self.stage.connections, len(away))):
                        tasks.create_task(self._fetch_some(fetcher, pending))

    def _local(self, rows: list[int]) -> bool:
        return self.pointers[rows[0]] is not None

    async def _fetch_some(self, fetcher: Fetcher, pending: Iterator[list[int]]) -> None:
        for rows in pending:
            if self.stop.is_set():
                return
            while self.waiting_bytes > _WAITING_BYTES:
                await asyncio.sleep(0.01)
            fetched = await fetcher.fetch(self.urls[rows[0]])
            if fetched.data is None:
                picture = Picture(FAILED_TO_DOWNLOAD, fetched.error)
                await asyncio.to_thread(self._put, (rows, picture, b""))
            else:
                await self._decode(rows, fetched.data)

    async def _read_local(self, groups: list[list[int]]) -> None:
        """Rows whose bytes lie in their source, read in the order that is cheap."""
        pointers = [self.pointers[rows[0]] or "" for rows in groups]
        reader = read_pointers(pointers, self.stage.max_bytes)
        running: set[asyncio.Task[None]] = set()
        while not self.stop.is_set():
            item = await asyncio.to_thread(next, reader, None)
            if item is None:
                break
            index, data = item
            if isinstance(data, PointerError):
                picture = Picture(FAILED_TO_DOWNLOAD, str(data))
                await asyncio.to_thread(self._put, (groups[index], picture, b""))
                continue
            running.add(asyncio.create_task(self._decode(groups[index], data)))
            if len(running) > 2 * self.count:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in running:
            await task

    async def _decode(self, rows: list[int], data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.waiting_bytes += len(data)
        try:
            await loop.run_in_executor(self.pool, self._decode_and_put, rows, data)
        finally:
            self.waiting_bytes -= len(data)

    def _decode_and_put(self, rows: list[int], data: bytes) -> None:
        boxes: Boxes | None = None
        if self.stage.blur_boxes:
            boxes = blur_boxes([self.meta[row] for row in rows], self.stage.blur_boxes)
            if boxes is None:
                self._put((rows, Picture(FAILED_TO_DECODE, NO_BOXES), data))
                return
        child = self.children.get()
        try:
            picture = self._supervised(child, data, boxes)
        finally:
            self.children.put(child)
        self._put((rows, picture, data))

    def _supervised(self, child: Child, data: bytes, boxes: Boxes | None) -> Picture:
        """Decode in a child. A child that dies gets one more try: it may have been killed by
        chance."""
        deadline = self.stage.decode_deadline_s
        for attempt in range(2):
            try:
                child.start()
                picture: Picture = child.call("process", data, boxes, deadline_s=deadline)
                return picture
            except ChildDied:
                if attempt == 1:
                    return Picture(POISONED, "decoder crashed")
            except ChildSilent:
                return Picture(POISONED, "decoder hung")
        raise AssertionError("the second try returns")


def blur_boxes(metas: Sequence[str | None], column: str) -> Boxes | None:
    """The boxes of all captions of one image; None if one of them has none that can be read."""
    found: Boxes = []
    for meta in metas:
        try:
            boxes = json.loads(meta or "{}")[column]
            boxes = json.loads(boxes) if isinstance(boxes, str) else boxes
            for box in boxes:
                left, top, right, bottom = (float(value) for value in box)
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    return None
                if [left, top, right, bottom] not in found:
                    found.append([left, top, right, bottom])
        except (KeyError, TypeError, ValueError):
            return None
    return found


def _finish(rows: pa.Table, picture: Picture | None, data: bytes) -> pa.Table:
    """Rows of one image with what became of it; without a picture, rows as they came."""
    count = len(rows)
    if picture is None:
        for field in _OWN:
            rows = rows.append_column(field, pa.nulls(count, field.type))
        return rows
    values: dict[str, Any] = {
        "status": picture.status,
        "error": picture.error,
        "sha256": hashlib.sha256(data).hexdigest() if data else None,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "format": picture.format,
        "orientation": picture.orientation,
        "received_bytes": len(data) if data else None,
        "image": picture.image,
    }
    return with_columns(rows, {name: [value] * count for name, value in values.items()}, SCHEMA)
