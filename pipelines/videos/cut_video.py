"""Pieces of videos as files of their own: exact to the frame, or whole packets from keyframe to
keyframe. Nothing of the file's metadata goes along."""

from __future__ import annotations

import bisect
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import av
from av.container import OutputContainer

from gristmill.pipelines.videos.clip import Clip, Encoding, Piece, average_rate
from gristmill.pipelines.videos.clip_sound import Sound
from gristmill.pipelines.videos.clip_writer import ClipWriter
from gristmill.pipelines.videos.video import (
    VideoError,
    counts_frames,
    frame_rate,
    lasting_of,
    open_video,
    play,
    play_from,
    upright_size,
    video_stream,
)


def encode_pieces(
    data: bytes, spans: Sequence[tuple[float, float]], encoding: Encoding
) -> Iterator[Clip | None]:
    """Stretches of seconds in order, not overlapping, each exact to the frame, in one pass over the
    video: the frames whose time lies in [start, end). None where no frame lies.

    Sound is cut at the same moments, to the sample. A stretch that ends beyond the last frame that
    decodes ends there. One ends with the next frame, or, where that comes late, as it does while
    nothing changes on a recorded screen, by itself.
    """
    waiting = list(spans)
    sound = Sound(data) if encoding.audio else None
    writer: ClipWriter | None = None
    index, end, step = -1, 0.0, 0.0
    with open_video(data) as container:
        rate, _ = frame_rate(container)
    usual = float(1 / rate)
    before = -usual
    for frame in play_from(data, waiting[0][0] if waiting else 0.0):
        # Times are rounded; a quarter of a frame tells neighbours apart all the same.
        slack = min(usual, max(frame.time - before, 0.0)) / 4
        before = frame.time
        while waiting and frame.time >= waiting[0][1] - slack:
            late = frame.time > waiting[0][1] + 1.25 * usual
            stop = waiting[0][1] if late else frame.time
            yield writer.finish(frame.index, stop, sound) if writer else None
            waiting.pop(0)
            writer = None
        if not waiting:
            return
        if writer is None and frame.time >= waiting[0][0] - slack:
            writer = ClipWriter(frame, rate, encoding)
        if writer is not None:
            writer.add(frame)
        step = frame.lasts or (frame.time - end if index >= 0 else usual)
        index, end = frame.index, frame.time
    for span in waiting:
        stop = span[1] if end + step > span[1] + 1.25 * usual else end + step
        yield writer.finish(index + 1, stop, sound) if writer else None
        writer = None


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
        rate = float(frame_rate(container)[0])
        packets = [p for p in _packets(container, stream) if p.pts is not None]
        if counts_frames(container) or not packets:
            raise VideoError("no times of presentation")
        decode_times = _decode_times(packets)
        clock = _Clock(packets, first.pts, stream)
        keys = [(i, p.pts) for i, p in enumerate(packets) if p.is_keyframe]
        # A cut falls on a frame's own time; half a frame of slack takes rounding away.
        slack = min(0.5 / rate / base, clock.smallest_gap / 2)
        for start_s, end_s in spans:
            begin, end = start_s / base + first.pts, end_s / base + first.pts
            inside = [(i, pts) for i, pts in keys if begin - slack <= pts <= end + slack]
            if end + slack >= clock.end:
                inside.append((len(packets), clock.end))
            if len(inside) < 2:
                yield None
                continue
            (i, pts), (j, _) = inside[0], inside[-1]
            chosen = [
                (p, dts)
                for p, dts in zip(packets[i:j], decode_times[i:j], strict=True)
                if p.pts >= pts
            ]
            yield _copy(data, chosen, stream, clock, size, rate)


class _Clock:
    """When the frames of a video are shown, in its stream's clock."""

    def __init__(self, packets: Sequence[Any], first: int, stream: Any) -> None:
        self.first, self.base = first, stream.time_base
        self.shown = sorted({p.pts for p in packets})
        gaps = [b - a for a, b in itertools.pairwise(self.shown)]
        self.smallest_gap = min(gaps, default=math.inf)
        last = max(packets, key=lambda p: p.pts)
        lasting = lasting_of(stream, last, len(packets) - 1) or (gaps[-1] if gaps else 1)
        self.end: int = self.shown[-1] + lasting

    def next_after(self, pts: int) -> int:
        """When the frame after the one at `pts` is shown, or the last one ends."""
        place = bisect.bisect_right(self.shown, pts)
        return self.shown[place] if place < len(self.shown) else self.end

    def number(self, pts: int) -> int:
        """How many frames are shown before `pts`, from the first of the video."""
        return bisect.bisect_left(self.shown, pts) - bisect.bisect_left(self.shown, self.first)

    def seconds(self, pts: int) -> float:
        """Seconds of the video at `pts`."""
        return float((pts - self.first) * self.base)


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
    chosen: Sequence[tuple[Any, int]],
    stream: Any,
    clock: _Clock,
    size: tuple[int, int],
    rate: float,
) -> Clip:
    """Packets of one stretch in a new file, with the sound that was heard meanwhile. It ends when
    the frame that follows is shown in the video, also where that one is stored before others."""
    zero = min(packet.pts for packet, _ in chosen)
    end = clock.next_after(max(packet.pts for packet, _ in chosen))
    first, last = clock.number(zero), clock.number(end)
    buffer = io.BytesIO()
    output = av.open(buffer, "w", format="mp4")
    try:
        target = output.add_stream_from_template(stream)
        target.time_base = stream.time_base
    except (ValueError, av.error.FFmpegError) as error:
        raise VideoError(f"{stream.codec_context.name} does not go into mp4") from error
    heard = _sound_of(data, output, float(zero * clock.base), float(end * clock.base))
    for packet, dts in _from_zero(chosen, clock, zero):
        packet.duration = clock.next_after(packet.pts) - packet.pts
        packet.pts -= zero
        packet.dts = dts
        packet.stream = target
    ordered = [packet for packet, _ in chosen]
    # The file is as long as its frames are decoded, the last of them until it ends.
    ordered[-1].duration = max(1, end - zero - (ordered[-1].dts - ordered[0].dts))
    everything = [*ordered, *heard]
    everything.sort(key=lambda packet: float(packet.dts * packet.time_base))
    for packet in everything:
        output.mux(packet)
    output.close()
    times = round(clock.seconds(zero), 5), round(clock.seconds(end), 5)
    fps = average_rate(len(chosen), times[1] - times[0], rate)
    return Clip(
        buffer.getvalue(), Piece(first, last), len(chosen), *times, *size, fps, bool(heard), False
    )


def _from_zero(
    chosen: Sequence[tuple[Any, int]], clock: _Clock, zero: int
) -> Iterator[tuple[Any, int]]:
    """The packets with when each is decoded in a file that begins at `zero`. What is decoded before
    that is decoded right before, also where nothing was shown for long: a player would wait."""
    early = sum(dts < zero for _, dts in chosen)
    step = int(min(clock.smallest_gap, 2**31))
    for number, (packet, dts) in enumerate(chosen):
        yield packet, max(dts - zero, (number - early) * step) if number < early else dts - zero


def _sound_of(data: bytes, output: OutputContainer, begin_s: float, end_s: float) -> list[Any]:
    """Packets of the sound that is heard in a stretch of the file's own clock, in a stream of their
    own, from zero; none if there is none, or mp4 does not take it."""
    heard: list[Any] = []
    with open_video(data) as container:
        if not container.streams.audio:
            return heard
        sound: Any = container.streams.audio[0]
        try:
            voice = output.add_stream_from_template(sound)
        except (ValueError, av.error.FFmpegError):
            return heard
        clock = float(sound.time_base)
        last = -math.inf
        for packet in _packets(container, sound):
            if packet.pts is None or packet.pts <= last:
                continue
            last = packet.pts
            if 0 <= packet.pts * clock - begin_s < end_s - begin_s:
                packet.pts -= round(begin_s / clock)
                packet.dts = packet.pts
                packet.stream = voice
                heard.append(packet)
    return heard
