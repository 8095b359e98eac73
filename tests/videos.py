"""Videos whose every frame says which it is, made here."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pyarrow as pa

from gristmill.pipelines.schema import ROW, SUCCESS
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.video import open_video, pixels, play, probe

SIDE = 64
_BITS = 8


def numbered(number: int, ground: int = 0) -> Any:
    """A frame of which eight bars spell a number, on a ground that a seed decides."""
    rng = np.random.default_rng(ground)
    frame = np.repeat(rng.integers(90, 160, (8, 8, 3), np.uint8), 8, axis=0).repeat(8, axis=1)
    for bit in range(_BITS):
        light = 235 if number >> bit & 1 else 20
        frame[:16, bit * 8 : bit * 8 + 8] = light
    return np.ascontiguousarray(frame)


def read_number(frame: Any) -> int:
    """The number that a frame spells, at any size."""
    height, width = frame.shape[:2]
    row = frame[height // 8]
    bars = [row[int((bit + 0.5) * width / _BITS)].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, light in enumerate(bars) if light > 128)


def encode(
    frames: list[Any],
    *,
    fps: int = 25,
    codec: str = "libx264",
    form: str = "mp4",
    every: int = 250,
    sound: Any = None,
    rate: int = 16_000,
    times: Sequence[int] | None = None,
    keys: Collection[int] = (),
    **options: str,
) -> bytes:
    """A video file; `sound`: samples of one channel, float32; `times`: milliseconds at which the
    frames are shown, if not at one rate; `keys`: frames that are to be keyframes, besides those
    that `every` makes; `options` are the encoder's."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as output:
        stream: Any = output.add_stream(
            codec, rate=fps, options={"g": str(every), "crf": "18"} | options
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        voice: Any = None
        if sound is not None:
            voice = output.add_stream("aac", rate=rate)
            voice.codec_context.layout = "mono"
        packets = []
        for i, frame in enumerate(frames):
            one = av.VideoFrame.from_ndarray(frame, format="rgb24")
            one.pts, one.time_base = i, Fraction(1, fps)
            if times is not None:
                one.pts, one.time_base = times[i], Fraction(1, 1000)
            if i in keys:
                one.pict_type = av.video.frame.PictureType.I
            packets += stream.encode(one)
        packets += stream.encode(None)
        if voice is not None:
            for at in range(0, len(sound), 1024):
                values = np.asarray(sound[None, at : at + 1024], np.float32)
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(values), format="fltp", layout="mono"
                )
                part.sample_rate, part.pts, part.time_base = rate, at, Fraction(1, rate)
                packets += voice.encode(part)
            packets += voice.encode(None)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            output.mux(packet)
    return buffer.getvalue()


def numbers_of(data: bytes) -> list[int]:
    """What the frames of a file spell, in the order shown."""
    with open_video(data) as container:
        return [read_number(pixels(frame.raw, 4096)) for frame in play(container)]


def loudest(data: bytes) -> float:
    """Seconds at which the sound of a file is loudest, on the clock of its picture."""
    samples, times = [], []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(container.streams.audio[0]):
            values = np.abs(np.asarray(frame.to_ndarray(), np.float64)).max(axis=0)
            samples.append(values)
            times.append(float(frame.pts * frame.time_base) + np.arange(len(values)) / frame.rate)
    return float(np.concatenate(times)[np.concatenate(samples).argmax()])


def videos(*files: bytes, **columns: Any) -> pa.Table:
    """Rows as DownloadVideo and Shots leave them."""
    rows = [{"uid": f"{i:032x}", "image_id": f"{i:032x}", "row": i, "source": "test",
             "status": SUCCESS, "meta": "{}"} for i in range(len(files))]  # fmt: skip
    table = pa.Table.from_pylist(rows, ROW)
    table = table.append_column("image", pa.array(files, pa.binary()))
    table = table.append_column("fps", pa.array([probe(f).fps for f in files], pa.float32()))
    for name in ("blob_offset", "blob_size"):
        table = table.append_column(name, pa.nulls(len(files), pa.int64()))
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values))
    return Shots()(table)
