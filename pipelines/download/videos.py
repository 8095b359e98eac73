"""Download of videos: fetch under the same rules as pictures, look inside, store as they came."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.download.resize import looks_like_text
from gristmill.pipelines.download.transfer import FetchAndDecode, Opened
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    FAILED_TO_RESIZE,
    POISONED,
    ROW,
    SUCCESS,
)
from gristmill.pipelines.videos.video import Probe, VideoError, probe

SCHEMA = pa.schema(
    [
        *[ROW.field(name) for name in ("status", "error", "sha256", "width", "height")],
        ROW.field("original_width"),
        ROW.field("original_height"),
        # Container as received (mov, matroska, ...), and codec (h264, hevc, av1, vp9, ...).
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        # Frames a second, on average.
        pa.field("fps", pa.float32()),
        pa.field("duration_s", pa.float32()),
        # Frames and keyframes that the container holds.
        pa.field("frames", pa.int32()),
        pa.field("keyframes", pa.int32()),
        # Degrees counter-clockwise by which the file asks to be turned; sizes are those once
        # turned.
        pa.field("rotation", pa.int16()),
        # PQ or HLG: needs more than 8 bits to be shown as meant.
        pa.field("hdr", pa.bool_()),
        pa.field("has_audio", pa.bool_()),
        pa.field("received_bytes", pa.int64()),
        pa.field("image", pa.binary()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DownloadVideo(FetchAndDecode):
    """Fetch http(s) URLs (or read the pointers of rows that lie in their source) and probe them.

    The file is stored as it came; clips are cut from it later. Rows that share a URL are fetched
    once. Only containers are opened that cannot name other files or hosts; a file that crashes,
    hangs or fills its reader ends as `poisoned`, alone.
    """

    libraries: ClassVar[tuple[str, ...]] = ("av",)

    max_bytes: int = 500_000_000
    timeout_s: float = 300.0
    decode_deadline_s: float = 60.0
    # Pixels of a frame; 0: no limit. 8192 x 4320 is the largest that codecs commonly allow.
    max_pixels: int = 8192 * 4320
    # Shorter side in pixels, and seconds; 0: no limit.
    min_side: int = 0
    min_duration_s: float = 0.0
    max_duration_s: float = 0.0

    def writes(self) -> pa.Schema:
        """Status, sizes, what the file says of itself, and the file."""
        return SCHEMA

    def check(self) -> None:
        """Validate the limits."""
        super().check()
        for name in ("max_pixels", "min_side", "min_duration_s", "max_duration_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must not be below 0")

    def make_worker(self) -> Callable[[], Any]:
        """Factory of what probes, run in each child."""
        return functools.partial(
            _quiet_prober, self.max_pixels, self.min_side, self.min_duration_s, self.max_duration_s
        )

    def failure(self, status: str, error: str) -> Video:
        """No video."""
        return Video(status, error)

    def columns_of(self, opened: Opened) -> dict[str, Any]:
        """Facts and the file."""
        assert isinstance(opened, Video)
        names = [field.name for field in SCHEMA if field.name in Probe.__dataclass_fields__]
        found = opened.facts
        values = {name: getattr(found, name) if found else None for name in names}
        for name in ("width", "height"):
            values[f"original_{name}"] = values[name]
        return {**values, "image": opened.data}


@dataclass(frozen=True)
class Video:
    """A video that is ready to be stored, or why there is none."""

    status: str
    error: str | None = None
    facts: Probe | None = None
    data: bytes | None = None


class VideoProber:
    """Looks into videos. Built in a child process."""

    def __init__(
        self, max_pixels: int, min_side: int, min_duration_s: float, max_duration_s: float
    ) -> None:
        self._limits = (max_pixels, min_side, min_duration_s, max_duration_s)

    def process(self, data: bytes, extra: Any = None) -> Video:
        """Never raises for what the bytes are; crashes and hangs are the parent's to see."""
        if not data:
            return Video(FAILED_TO_DOWNLOAD, "empty body")
        text = looks_like_text(data)
        if text is not None:
            return Video(FAILED_TO_DECODE, f"{text} instead of video")
        try:
            facts = probe(data)
        except VideoError as error:
            return Video(FAILED_TO_DECODE, str(error))
        except MemoryError:
            return Video(POISONED, "out of memory")
        max_pixels, min_side, least, most = self._limits
        if max_pixels and facts.width * facts.height > max_pixels:
            return Video(FAILED_TO_RESIZE, "frame too large", facts)
        if min(facts.width, facts.height) < min_side:
            return Video(FAILED_TO_RESIZE, "frame too small", facts)
        if facts.duration_s < least:
            return Video(FAILED_TO_RESIZE, "too short", facts)
        if most and facts.duration_s > most:
            return Video(FAILED_TO_RESIZE, "too long", facts)
        return Video(SUCCESS, None, facts, data)


def _quiet_prober(*limits: Any) -> VideoProber:
    """A prober whose process writes nothing to the terminal: decoders complain about foreign bytes
    by themselves, and what matters comes back as a reason."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return VideoProber(*limits)
