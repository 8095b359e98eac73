"""Videos as PyAV reads them: opened without reaching for anything else, probed, played upright."""

from __future__ import annotations

import contextlib
import io
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gristmill.pipelines.decode import DecodeError, Image
from gristmill.pipelines.videos.clip import average_rate

# Containers that are opened. Playlists (HLS, DASH, concat) are not among them: they name other
# files and hosts, and the library would fetch them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,h264,hevc,"
    "ivf,m4v,mxf,nut,rm,wtv,dv,swf,vob,y4m,yuv4mpegpipe,apng"
)
# Seconds that are rather decoded than jumped over.
_JUMP_S = 4.0
# Streams without a container, whose frames have no times; where one has, they are made up.
_RAW = frozenset(("h264", "hevc", "m4v", "mpegvideo"))
# Frames a second where nothing says how many, as ffmpeg takes them.
_ASSUMED_RATE = Fraction(25)
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
    # Nothing in the file says when its frames are shown: 25 a second were taken.
    fps_assumed: bool
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
    # Seconds for which it is shown, as the file says; 0 where it does not.
    lasts: float = 0.0


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
        rate, assumed = frame_rate(container)
        counted = counts_frames(container)
        times, last, frames, keyframes = array("q"), None, 0, 0
        with contextlib.suppress(av.error.FFmpegError):
            # Where the tail is cut off, what came before may still be of use.
            for packet in container.demux(stream):
                if not packet.size or (packet.pts is None and not counted):
                    continue
                frames += 1
                keyframes += bool(packet.is_keyframe)
                if not counted:
                    times.append(packet.pts or 0)
                    if last is None or times[-1] >= (last.pts or 0):
                        last = packet
        if frames == 0:
            raise VideoError("no frames")
        if frames == 1:
            raise VideoError("still image")
        lasting = lasting_of(stream, last, frames - 1) if last is not None else 0
        duration = frames / float(rate) if counted else _shown_s(times, lasting, stream.time_base)
    with open_video(data) as container:
        frame = next(play(container), None)
        if frame is None:
            raise VideoError("no frame decodes")
        width, height = upright_size(frame.raw)
        codec = video_stream(container).codec_context
        hdr = codec.color_trc in _HDR_TRANSFERS
        codec_name = str(codec.codec.canonical_name)
    return Probe(
        container=name.split(",")[0],
        codec=codec_name,
        width=width,
        height=height,
        fps=round(average_rate(frames, duration, rate), 5),
        fps_assumed=assumed,
        duration_s=round(duration or frames / float(rate), 5),
        frames=frames,
        keyframes=keyframes,
        rotation=_turn_of(frame.raw),
        hdr=bool(hdr),
        has_audio=sound,
    )


def _shown_s(times: array[int], lasting: int, base: Fraction | None) -> float:
    """Seconds from the first of these moments to the end of the last, which is shown for as long as
    it says, else as the one before."""
    shown = sorted(times)
    return float((shown[-1] - shown[0] + (lasting or shown[-1] - shown[-2])) * (base or 0))


def lasting_of(stream: VideoStream, shown: av.Packet[Any] | av.VideoFrame, number: int) -> int:
    """For how long the frame with a number, from 0, is shown, in the stream's clock, as the file
    says; 0 where it does not. Of the last it is what is left: an mp4 says when the next is decoded,
    which is in another order."""
    lasting = int(shown.duration or 0)
    if number + 1 != stream.frames or None in (shown.pts, stream.start_time, stream.duration):
        return lasting
    left = (stream.start_time or 0) + (stream.duration or 0) - (shown.pts or 0)
    return left if left > 0 else lasting


def is_raw(container: InputContainer) -> bool:
    """Whether it is a stream without a container, as cameras write (.h264, .hevc)."""
    return container.format.name in _RAW


def frame_rate(container: InputContainer) -> tuple[Fraction, bool]:
    """Frames a second as the file says, in its stream where it has no container; and whether
    nothing says so, and 25 are taken."""
    stream = video_stream(container)
    said = (
        stream.codec_context.framerate
        if is_raw(container)
        else stream.average_rate or stream.guessed_rate
    )
    return (Fraction(said), False) if said else (_ASSUMED_RATE, True)


def counts_frames(container: InputContainer) -> bool:
    """Whether frames are counted, as they come at one rate, because a file gives no times at which
    they are shown: streams without a container, and AVI whose times are those of decoding, though
    frames are shown in another order."""
    if is_raw(container):
        return True
    stream = video_stream(container)
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def play(container: InputContainer) -> Iterator[Frame]:
    """Frames in the order shown, up to the first that does not decode."""
    stream = video_stream(container)
    base = stream.time_base
    first: int | None = None
    index = 0
    rate, _ = frame_rate(container)
    counted = counts_frames(container) and base
    try:
        for raw in container.decode(stream):
            if base is None or (raw.pts is None and not counted):
                continue
            pts = raw.pts or 0
            lasts = float(lasting_of(stream, raw, index) * base)
            if counted:
                pts = (first or 0) + round(index / (rate * base))
                lasts = float(1 / rate)
            first = pts if first is None else first
            yield Frame(index, float((pts - first) * base), pts, raw, lasts)
            index += 1
    except av.error.FFmpegError:
        return


def play_from(data: bytes, start_s: float) -> Iterator[Frame]:
    """Frames in the order shown from `start_s` on, or from somewhat before. What lies far before is
    jumped over, where the file allows it; its packets are counted then, and not decoded."""
    if start_s > _JUMP_S:
        with open_video(data) as container:
            stream = video_stream(container)
            zero = next(play(container), None)
            base = stream.time_base
            if zero is not None and base and not counts_frames(container):
                # A file that cannot be jumped in is played on from where it is.
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(zero.pts + int(start_s / base), stream=stream)
                number: int | None = None
                for frame in play(container):
                    time = float((frame.pts - zero.pts) * base)
                    # Some files are jumped in only roughly; those are played from their beginning.
                    if number is None and time > start_s:
                        break
                    if number is None:
                        number = _shown_before(data, zero.pts, frame.pts)
                    yield Frame(number + frame.index, time, frame.pts, frame.raw, frame.lasts)
                if number is not None:
                    return
    with open_video(data) as container:
        yield from play(container)


def _shown_before(data: bytes, first: int, pts: int) -> int:
    """How many frames are shown from the one at `first` until `pts`."""
    count = 0
    with open_video(data) as container, contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(video_stream(container)):
            if packet.size and packet.pts is not None:
                count += first <= packet.pts < pts
                if packet.dts is not None and packet.dts >= pts:
                    break
    return count


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
