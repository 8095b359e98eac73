"""A piece of a video as a file of its own, and how such files are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


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
    # On average.
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


def average_rate(frames: int, duration_s: float, rate: Fraction | float) -> float:
    """Frames a second on average: the rate that a file gives, where its frames come at that rate;
    else what they make over their time."""
    if duration_s > 0 and (not rate or abs(frames - float(rate) * duration_s) > 1):
        return round(frames / duration_s, 5)
    return float(rate)
