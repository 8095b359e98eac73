"""Pieces of videos as files of their own: exact to the frame, or whole packets from keyframe to
keyframe. Nothing of the file's metadata goes along."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from gristmill.pipelines.videos.video import (
    Frame,
    VideoError,
    counts_frames,
    open_video,
    play,
    play_from,
    turn,
    upright_size,
    video_stream,
)

# Sample rates that AAC in mp4 knows; others are brought to 48 kHz.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AUDIO_FRAME = 1024
# Without it the encoder's choices depend on the processor, and now and then on what lay in memory.
_SAME = "cpu-independent=1"


@dataclass(frozen=True)
class Piece:
    """Frames `start` to `end`, the latter not included."""

    start: int
    end: int


@dataclass(frozen=True)
class Clip:
    """A piece as an mp4 file, with where it came from."""

    data: bytes
    piece: Piece
    # In the file: fewer than the piece has where a broken clock shows two at once.
    frames: int
    # Seconds in the video.
    start_s: float
    end_s: float
    width: int
    height: int
    fps: float
    has_audio: bool
    # False: packets were copied.
    encoded: bool


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How pieces are encoded again: H.264 with AAC."""

    # Shorter side in pixels, at most; 0: as it is.
    short_side: int = 480
    # Quality: 0 lossless, 18 hardly to be told apart, 51 worst (x264).
    crf: int = 18
    preset: str = "veryfast"
    audio: bool = True
    # Bits a second of a channel pair.
    audio_rate: int = 128_000


def encode_pieces(
    data: bytes, spans: Sequence[tuple[float, float]], encoding: Encoding
) -> Iterator[Clip | None]:
    """Stretches of seconds in order, not overlapping, each exact to the frame, in one pass over the
    video: the frames whose time lies in [start, end). None where no frame lies.

    Sound is cut at the same moments, to the sample. A stretch that ends beyond the last frame that
    decodes ends there.
    """
    waiting = list(spans)
    sound = _Sound(data) if encoding.audio else None
    writer: _Writer | None = None
    index, end, step = -1, 0.0, 0.0
    with open_video(data) as container:
        stream = video_stream(container)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    # Times are rounded; a quarter of a frame tells neighbours apart all the same.
    slack = float(1 / rate) / 4
    for frame in play_from(data, waiting[0][0] if waiting else 0.0):
        while waiting and frame.time >= waiting[0][1] - slack:
            yield writer.finish(frame.index, frame.time, sound) if writer else None
            waiting.pop(0)
            writer = None
        if not waiting:
            return
        if writer is None and frame.time >= waiting[0][0] - slack:
            writer = _Writer(frame, rate, encoding)
        if writer is not None:
            writer.add(frame)
        step = frame.time - end if index >= 0 else float(1 / rate)
        index, end = frame.index, frame.time
    for _ in waiting:
        yield writer.finish(index + 1, end + step, sound) if writer else None
        writer = None


class _Writer:
    """One clip being encoded."""

    def __init__(self, first: Frame, rate: Fraction, encoding: Encoding) -> None:
        self.first, self.rate, self.encoding = first, rate, encoding
        width, height = upright_size(first.raw)
        short = min(width, height)
        scale = encoding.short_side / short if 0 < encoding.short_side < short else 1.0
        self.size = (max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2)))
        self.buffer = io.BytesIO()
        self.output = av.open(self.buffer, "w", format="mp4")
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "x264-params": _SAME}
        self.stream: Any = self.output.add_stream("libx264", rate=rate, options=options)
        self.stream.width, self.stream.height = self.size
        self.stream.pix_fmt = "yuv420p"
        context: Any = self.stream.codec_context
        context.time_base = first.raw.time_base
        context.thread_count = 1
        # Numbers of a frame mean colours only together with these.
        context.color_range = ColorRange.MPEG
        context.colorspace = first.raw.colorspace
        context.color_primaries = first.raw.color_primaries
        context.color_trc = first.raw.color_trc
        self.packets: list[Any] = []
        self.fps = float(rate)
        self.last: int | None = None
        self.frames = 0

    def add(self, frame: Frame) -> None:
        if self.last is not None and frame.pts <= self.last:
            # A broken clock; no file can show two frames at once.
            return
        self.last = frame.pts
        self.frames += 1
        raw = frame.raw
        degrees = (round(raw.rotation / 90) * 90) % 360
        width, height = self.size if degrees % 180 == 0 else self.size[::-1]
        small = raw.reformat(
            width=width,
            height=height,
            format="yuv420p",
            interpolation="AREA",
            dst_color_range=ColorRange.MPEG,
        )
        if degrees:
            small = _turned(small, degrees)
        small.pts = frame.pts - self.first.pts
        small.time_base = raw.time_base
        small.pict_type = av.video.frame.PictureType.NONE
        self.packets += self.stream.encode(small)

    def finish(self, end: int, end_s: float, sound: _Sound | None) -> Clip:
        self.packets += self.stream.encode(None)
        start_s = self.first.time
        heard = False
        if sound is not None:
            samples, rate = sound.between(start_s, end_s)
            heard = samples.shape[1] > 0
            if heard:
                self.packets += _encode_sound(self.output, samples, rate, self.encoding)
        self.packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in self.packets:
            self.output.mux(packet)
        self.output.close()
        return Clip(
            self.buffer.getvalue(),
            Piece(self.first.index, end),
            self.frames,
            round(start_s, 5),
            round(end_s, 5),
            *self.size,
            self.fps,
            heard,
            True,
        )


def _turned(frame: av.VideoFrame, degrees: int) -> av.VideoFrame:
    """A yuv420p frame turned counter-clockwise, plane by plane."""
    values = frame.to_ndarray()
    height, width = frame.height, frame.width
    planes = [values[:height], *values[height:].reshape(2, height // 2, width // 2)]
    turned = [turn(plane, degrees) for plane in planes]
    columns = turned[0].shape[1]
    flat = np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, columns)
    return av.VideoFrame.from_ndarray(flat, format="yuv420p")


class _Sound:
    """The sound of a video, read forward as pieces ask for it."""

    def __init__(self, data: bytes) -> None:
        self._container = open_video(data)
        self._pending: list[tuple[float, NDArray[np.float32]]] = []
        self._frames: Iterator[Any] = iter(())
        self._zero = 0.0
        self.rate = 48_000
        streams = self._container.streams.audio
        # Sound that nobody can decode has no context.
        if not streams or streams[0].codec_context is None:
            return
        stream = streams[0]
        video = video_stream(self._container)
        # Both streams share one clock; the first frame of the picture is zero.
        with open_video(data) as other:
            first = next(play(other), None)
        if first is not None and video.time_base is not None:
            self._zero = float(first.pts * video.time_base)
        rate = int(stream.codec_context.sample_rate or 0)
        self.rate = rate if rate in _AAC_RATES else 48_000
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        self._frames = self._decode(stream)

    def _decode(self, stream: Any) -> Iterator[tuple[float, NDArray[np.float32]]]:
        try:
            for raw in self._container.decode(stream):
                for frame in self._resampler.resample(raw):
                    if frame.pts is not None and frame.time_base is not None:
                        at = float(frame.pts * frame.time_base) - self._zero
                        yield at, np.asarray(frame.to_ndarray(), np.float32)
        except av.error.FFmpegError:
            return

    def between(self, start_s: float, end_s: float) -> tuple[NDArray[np.float32], int]:
        """Samples [channels, n] of a stretch, silence where there are none; n is 0 if it has none
        at all."""
        while not self._pending or self._end(self._pending[-1]) < end_s:
            found = next(self._frames, None)
            if found is None:
                break
            self._pending.append(found)
        self._pending = [piece for piece in self._pending if self._end(piece) > start_s]
        inside = [piece for piece in self._pending if piece[0] < end_s]
        if not inside:
            return np.zeros((1, 0), np.float32), self.rate
        count = round((end_s - start_s) * self.rate)
        samples = np.zeros((inside[0][1].shape[0], count), np.float32)
        for at, values in inside:
            place = round((at - start_s) * self.rate)
            first, last = max(place, 0), min(place + values.shape[1], count)
            if first < last:
                samples[:, first:last] = values[:, first - place : last - place]
        return samples, self.rate

    def _end(self, piece: tuple[float, NDArray[np.float32]]) -> float:
        return piece[0] + len(piece[1][0]) / self.rate


def _encode_sound(
    output: OutputContainer, samples: NDArray[np.float32], rate: int, encoding: Encoding
) -> list[Any]:
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    stream: Any = output.add_stream("aac", rate=rate)
    stream.codec_context.layout = layout
    stream.codec_context.bit_rate = encoding.audio_rate // (2 if layout == "mono" else 1)
    packets: list[Any] = []
    for at in range(0, samples.shape[1], _AUDIO_FRAME):
        values = np.ascontiguousarray(samples[:, at : at + _AUDIO_FRAME])
        frame = av.AudioFrame.from_ndarray(values, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = at
        frame.time_base = Fraction(1, rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return packets


def copy_pieces(data: bytes, spans: Sequence[tuple[float, float]]) -> Iterator[Clip | None]:
    """Stretches of seconds without encoding: each from the first keyframe at or after its start to
    the last at or before its end, or the end of the video. None where no keyframe lies within.

    Raises `VideoError` for a picture that is to be turned, or a codec that mp4 does not take.
    """
    with open_video(data) as container:
        first = next(play(container), None)
        if first is None or first.raw.rotation:
            raise VideoError("no frame decodes" if first is None else "turned picture")
        size = upright_size(first.raw)
    with open_video(data) as container:
        stream = video_stream(container)
        base = float(stream.time_base or 0)
        fps = float(stream.average_rate or 25)
        packets = [p for p in _packets(container, stream) if p.pts is not None]
        start_pts = first.pts
        if counts_frames(container) or not packets:
            raise VideoError("no times of presentation")
        decode_times = _decode_times(packets)
        ends = max(p.pts + (p.duration or 0) for p in packets)
        keys = [(i, p.pts) for i, p in enumerate(packets) if p.is_keyframe]
        # A cut falls on a frame's own time; half a frame of slack takes rounding away.
        slack = 0.5 / fps / base
        for start_s, end_s in spans:
            begin, end = start_s / base + start_pts, end_s / base + start_pts
            inside = [(i, pts) for i, pts in keys if begin - slack <= pts <= end + slack]
            if end + slack >= ends:
                inside.append((len(packets), ends))
            if len(inside) < 2:
                yield None
                continue
            (i, pts), (j, last) = inside[0], inside[-1]
            chosen = [
                (p, dts)
                for p, dts in zip(packets[i:j], decode_times[i:j], strict=True)
                if p.pts >= pts
            ]
            shown = max(p.pts + (p.duration or 0) for p, _ in chosen)
            if chosen[-1][0].duration and shown < last - slack:
                # Frames shown before the last keyframe may be stored after it; they stay behind.
                last = shown
            times = ((pts - start_pts) * base, (last - start_pts) * base)
            yield _copy(data, chosen, stream, pts, times, size, fps)


def _decode_times(packets: Sequence[Any]) -> list[int]:
    """When each packet is decoded, in the stream's clock: as the file says, or, where it does not
    say so for all (Matroska stores none), as late as frames that are shown out of order allow."""
    told = [packet.dts for packet in packets]
    if None not in told and all(a < b for a, b in itertools.pairwise(told)):
        return told
    shown = sorted(packet.pts for packet in packets)
    delay = max(time - packet.pts for time, packet in zip(shown, packets, strict=True))
    return [time - delay for time in shown]


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        return


def _copy(
    data: bytes,
    chosen: list[tuple[Any, int]],
    stream: Any,
    zero: int,
    times: tuple[float, float],
    size: tuple[int, int],
    fps: float,
) -> Clip:
    """Packets of one stretch in a new file, with the sound that was heard meanwhile."""
    buffer = io.BytesIO()
    output = av.open(buffer, "w", format="mp4")
    try:
        target = output.add_stream_from_template(stream)
        target.time_base = stream.time_base
    except (ValueError, av.error.FFmpegError) as error:
        raise VideoError(f"{stream.codec_context.name} does not go into mp4") from error
    with open_video(data) as container:
        sound: Any = container.streams.audio[0] if container.streams.audio else None
        heard: list[Any] = []
        if sound is not None:
            try:
                voice = output.add_stream_from_template(sound)
            except (ValueError, av.error.FFmpegError):
                sound = None
        if sound is not None:
            clock = float(sound.time_base)
            origin = float(zero * stream.time_base)
            last = -math.inf
            for packet in _packets(container, sound):
                if packet.pts is None or packet.pts <= last:
                    continue
                last = packet.pts
                if 0 <= packet.pts * clock - origin < times[1] - times[0]:
                    packet.pts -= round(origin / clock)
                    packet.dts = packet.pts
                    packet.stream = voice
                    heard.append(packet)
        for packet, dts in chosen:
            packet.pts -= zero
            packet.dts = dts - zero
            packet.stream = target
        everything = [*[packet for packet, _ in chosen], *heard]
        everything.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in everything:
            output.mux(packet)
        output.close()
    start, end = (round(value, 5) for value in times)
    piece = Piece(round(start * fps), round(end * fps))
    data = buffer.getvalue()
    return Clip(data, piece, len(chosen), start, end, *size, fps, bool(heard), False)
