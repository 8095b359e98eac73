"""Download of videos: fetch under the same rules as pictures, look inside, store as they came."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.download.picture_bytes import looks_like_text
from gristmill.pipelines.download.transfer import TLS, TLS_FACTS, FetchAndDecode, Opened
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    FAILED_TO_RESIZE,
    POISONED,
    ROW,
    SUCCESS,
    ColumnFacts,
)
from gristmill.pipelines.sources.listed_videos import is_page
from gristmill.pipelines.stage import setting
from gristmill.pipelines.videos.video import Probe, VideoError, probe

SCHEMA = pa.schema(
    [
        *[ROW.field(name) for name in ("status", "error", "sha256", "width", "height")],
        ROW.field("original_width"),
        ROW.field("original_height"),
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("fps", pa.float32()),
        pa.field("fps_assumed", pa.bool_()),
        pa.field("duration_s", pa.float32()),
        pa.field("frames", pa.int32()),
        pa.field("keyframes", pa.int32()),
        pa.field("rotation", pa.int16()),
        pa.field("hdr", pa.bool_()),
        pa.field("has_audio", pa.bool_()),
        pa.field("received_bytes", pa.int64()),
        pa.field("image", pa.binary()),
    ]
)

VIDEO_PAGE = "page of a video, not a file"


@dataclass(frozen=True, kw_only=True)
class DownloadVideo(FetchAndDecode):
    """Fetch http(s) URLs (or read the pointers of rows that lie in their source) and probe them.

    The file is stored as it came; clips are cut from it later. Rows that share a URL are fetched
    once. Only containers are opened that cannot name other files or hosts; a file that crashes,
    hangs or fills its reader ends as `poisoned`, alone.
    """

    # 2: all forms of an opt-out are respected; streams without a container; frames a second and
    # durations of a variable rate.
    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("av",)

    # Of one transfer, inflated.
    max_bytes: int = setting(500_000_000, unit="bytes", low=1)
    # For one try: name, connection, redirects and the whole body.
    timeout_s: float = setting(300.0, unit="s", low=0)
    # For opening what one transfer brought.
    decode_deadline_s: float = setting(60.0, unit="s", low=0)
    # Of a frame; 0: no limit. 8192 x 4320 is the largest that codecs commonly allow.
    max_pixels: int = setting(8192 * 4320, unit="pixels", low=0)
    # Shorter side; 0: no limit.
    min_side: int = setting(0, unit="pixels", low=0)
    # Shorter videos fail.
    min_duration_s: float = setting(0.0, unit="s", low=0)
    # Longer videos fail; 0: no limit.
    max_duration_s: float = setting(0.0, unit="s", low=0)

    def writes(self) -> pa.Schema:
        """Status, sizes, what the file says of itself, and the file."""
        return self.with_tls(SCHEMA)

    def refusal(self, url: str) -> str | None:
        """Pages on which a video is watched are no files of videos."""
        return VIDEO_PAGE if is_page(url) else None

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        own = {} if self.verify_tls else {TLS.name: TLS_FACTS}
        return own | {
            "container": ColumnFacts("Container as received: mov, matroska, ..."),
            "codec": ColumnFacts("Codec as received: h264, hevc, av1, vp9, ..."),
            "fps_assumed": ColumnFacts(
                "Whether the file is a stream without a container (.h264, .hevc) that does not say "
                "how many frames a second it has, so that 25 are taken."
            ),
            "keyframes": ColumnFacts("Keyframes that the container holds.", "frames", low=0),
            "rotation": ColumnFacts(
                "Turn that the file asks for, counter-clockwise; sizes are those once turned.",
                "degrees",
            ),
            "hdr": ColumnFacts("PQ or HLG: needs more than 8 bits to be shown as meant."),
        }

    def check(self) -> None:
        """Validate the limits."""
        super().check()
        for name in ("max_pixels", "min_side", "min_duration_s", "max_duration_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must not be below 0")

    def make_worker(self) -> Callable[[], object]:
        """Factory of what probes, run in each child."""
        return functools.partial(
            _quiet_prober, self.max_pixels, self.min_side, self.min_duration_s, self.max_duration_s
        )

    def failure(self, status: str, error: str) -> Video:
        """No video."""
        return Video(status, error)

    def columns_of(self, opened: Opened) -> dict[str, object]:
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

    def process(self, data: bytes, extra: object = None) -> Video:
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
