"""The sound of a video, cut to the sample and encoded with a clip."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from gristmill.pipelines.videos.clip import Encoding
from gristmill.pipelines.videos.video import open_video, play, video_stream

# Sample rates that AAC in mp4 knows; others are brought to 48 kHz.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AUDIO_FRAME = 1024


class Sound:
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


def encode_sound(
    output: OutputContainer, samples: NDArray[np.float32], rate: int, encoding: Encoding
) -> list[Any]:
    """Packets of samples [channels, n] in a stream of their own."""
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
