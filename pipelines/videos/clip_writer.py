"""One clip being encoded, frame by frame."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from gristmill.pipelines.videos.clip import Clip, Encoding, Piece, average_rate
from gristmill.pipelines.videos.clip_sound import Sound, encode_sound
from gristmill.pipelines.videos.video import Frame, turn, upright_size

# Without it the encoder's choices depend on the processor, and now and then on what lay in memory.
_SAME = "cpu-independent=1"


class ClipWriter:
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
        self.last: int | None = None
        self.frames = 0

    def add(self, frame: Frame) -> None:
        """One more frame, in the order shown."""
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

    def finish(self, end: int, end_s: float, sound: Sound | None) -> Clip:
        """The clip: frames before number `end`, the last of them shown until `end_s`."""
        self.packets += self.stream.encode(None)
        start_s = self.first.time
        self._hold_last(end_s - start_s)
        heard = False
        if sound is not None:
            samples, rate = sound.between(start_s, end_s)
            heard = samples.shape[1] > 0
            if heard:
                self.packets += encode_sound(self.output, samples, rate, self.encoding)
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
            average_rate(self.frames, end_s - start_s, self.rate),
            heard,
            True,
        )

    def _hold_last(self, length_s: float) -> None:
        """Have the file end when its last frame does: an encoder takes it to be shown as long as
        those before."""
        if self.packets:
            length = round(length_s / self.packets[0].time_base)
            shown = max(self.packets, key=lambda packet: packet.pts)
            shown.duration = max(1, length - shown.pts)
            # A file is as long as its frames are decoded.
            first, last = self.packets[0], self.packets[-1]
            last.duration = max(1, length - (last.dts - first.dts))


def _turned(frame: av.VideoFrame, degrees: int) -> av.VideoFrame:
    """A yuv420p frame turned counter-clockwise, plane by plane."""
    values = frame.to_ndarray()
    height, width = frame.height, frame.width
    planes = [values[:height], *values[height:].reshape(2, height // 2, width // 2)]
    turned = [turn(plane, degrees) for plane in planes]
    columns = turned[0].shape[1]
    flat = np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, columns)
    return av.VideoFrame.from_ndarray(flat, format="yuv420p")
