"""Videos as PyAV reads them: opened without reaching for anything else, probed, played upright."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gristmill.pipelines.decode import DecodeError, Image

# Containers that are opened. Playlists (HLS, DASH, concat) are not among them: they name other
# files and hosts, and the library would fetch them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,h264,hevc,"
    "ivf,m4v,mxf,nut,rm,wtv,dv,swf,vob,y4m,yuv4mpegpipe,apng"
)
# Seconds that are rather decoded than jumped over.
_JUMP_S = 4.0
# What these transfer functions hold needs more than 8 bits to be shown as meant: PQ and HLG.
_HDR_TRANSFERS = (16, 18)


class VideoError(DecodeError):
    """Why bytes are no video that can be used; its text is short and countable."""


@dataclass(frozen=True)
class Probe:
    """What a file says about itself, and what its first frame confirms."""

    container: str
    codec: str
    # Pixels of an upright frame.
    width: int
    height: int
    # Frames a second, on average.
    fps: float
    duration_s: float
    # Frames that the container holds.
    frames: int
    keyframes: int
    # Degrees that the file asks to be turned by, counter-clockwise: -90, 0, 90, 180.
    rotation: int
    hdr: bool
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    """One frame in the order shown. `index` counts those that decoded, from 0."""

    index: int
    # Seconds since the first frame, and the stream's own clock.
    time: float
    pts: int
    raw: av.VideoFrame


def open_video(data: bytes) -> InputContainer:
    """Open bytes. Raises `VideoError` for what is no video."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    try:
        container = av.open(io.BytesIO(data), options=options, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise VideoError("not a video") from error
    assert isinstance(container, InputContainer)
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise VideoError("no video stream" if stream is None else "no decoder for its codec")
    # On one thread broken files give the same frames everywhere.
    video_stream(container).codec_context.thread_count = 1
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """The stream that a player would show."""
    stream = container.streams.best("video")
    assert isinstance(stream, VideoStream)
    return stream


def probe(data: bytes) -> Probe:
    """Facts about a video, from its packets and its first frame.

    Raises `VideoError` for what is no video, has one frame only, or does not decode at all.
    """
    with open_video(data) as container:
        stream = video_stream(container)
        name = str(container.format.name)
        sound = bool(container.streams.audio)
        first, last, frames, keyframes = math.inf, -math.inf, 0, 0
        step = 0
        try:
            for packet in container.demux(stream):
                if packet.pts is None or not packet.size:
                    continue
                frames += 1
                keyframes += bool(packet.is_keyframe)
                first, last = min(first, packet.pts), max(last, packet.pts)
                step = packet.duration or step
        except av.error.FFmpegError:
            # The tail is cut off; what came before may still be of use.
            pass
        if frames == 0:
            raise VideoError("no frames")
        if frames == 1:
            raise VideoError("still image")
        base = float(stream.time_base or 0)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    with open_video(data) as container:
        frame = next(play(container), None)
        if frame is None:
            raise VideoError("no frame decodes")
        width, height = upright_size(frame.raw)
        codec = video_stream(container).codec_context
        hdr = codec.color_trc in _HDR_TRANSFERS
        codec_name = str(codec.codec.canonical_name)
    duration = (last - first + step) * base
    fps = fps or (frames / duration if duration else 0.0)
    return Probe(
        container=name.split(",")[0],
        codec=codec_name,
        width=width,
        height=height,
        fps=round(fps, 5),
        duration_s=round(duration or frames / max(fps, 1e-6), 5),
        frames=frames,
        keyframes=keyframes,
        rotation=_turn_of(frame.raw),
        hdr=bool(hdr),
        has_audio=sound,
    )


def counts_frames(container: InputContainer) -> bool:
    """Whether the times that a file gives are those of decoding, though frames are shown in another
    order: AVI knows no other, so that its frames, which come at one rate, are counted."""
    stream = video_stream(container)
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def play(container: InputContainer) -> Iterator[Frame]:
    """Frames in the order shown, up to the first that does not decode."""
    stream = video_stream(container)
    base = stream.time_base
    first: int | None = None
    index = 0
    rate = stream.average_rate or stream.guessed_rate
    counted = counts_frames(container) and rate and base
    try:
        for raw in container.decode(stream):
            if base is None or (raw.pts is None and not counted):
                continue
            pts = raw.pts or 0
            if counted and rate:
                pts = (first or 0) + round(index / (rate * base))
            first = pts if first is None else first
            yield Frame(index, float((pts - first) * base), pts, raw)
            index += 1
    except av.error.FFmpegError:
        return


def play_from(data: bytes, start_s: float) -> Iterator[Frame]:
    """Frames in the order shown from `start_s` on, or from somewhat before. What lies far before is
    jumped over, where the file allows it; `index` is then told from the time."""
    if start_s > _JUMP_S:
        with open_video(data) as container:
            stream = video_stream(container)
            zero = next(play(container), None)
            rate, base = stream.average_rate, stream.time_base
            if zero is not None and rate and base and not counts_frames(container):
                # A file that cannot be jumped in is played on from where it is.
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(zero.pts + int(start_s / base), stream=stream)
                arrived = False
                for frame in play(container):
                    time = float((frame.pts - zero.pts) * base)
                    # Some files are jumped in only roughly; those are played from their beginning.
                    if not arrived and time > start_s:
                        break
                    arrived = True
                    yield Frame(round(time * rate), time, frame.pts, frame.raw)
                if arrived:
                    return
    with open_video(data) as container:
        yield from play(container)


def _turn_of(frame: av.VideoFrame) -> int:
    """Degrees, counter-clockwise, in steps of 90."""
    return (round(frame.rotation / 90) * 90 + 90) % 360 - 90


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height once turned, with square pixels."""
    width, height = frame.width, frame.height
    return (height, width) if _turn_of(frame) % 180 else (width, height)


def shrink(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height with the longer side at most `longest`, each even and at least 2."""
    scale = min(1.0, longest / max(size))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in size)
    return width, height


def pixels(frame: av.VideoFrame, longest: int, kind: str = "rgb24") -> Image:
    """The upright frame at a longer side of at most `longest`, as uint8 in a format of numpy:
    rgb24 or bgr24 [height, width, 3], gray8 [height, width]."""
    width, height = shrink((frame.width, frame.height), longest)
    small = frame.reformat(width=width, height=height, format=kind, interpolation="AREA")
    return turn(small.to_ndarray(), _turn_of(frame))


def turn(values: Any, degrees: int) -> Image:
    """An array turned as a display matrix asks, counter-clockwise."""
    return np.ascontiguousarray(np.rot90(values, (degrees // 90) % 4))
