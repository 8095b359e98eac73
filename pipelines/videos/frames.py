"""What all scores of a clip look at: decoded once, small, at moments that depend on the clip
alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import Media
from gristmill.pipelines.videos.video import open_video, pixels, play, video_stream

if TYPE_CHECKING:
    from cv2.typing import MatLike

# Frames in colour, evenly spread; their longer side in pixels.
FRAMES = 12
SIDE = 256
# Frames in grey for motion: pairs this far apart in seconds.
STEP_S = 0.125
GREY_SIDE = 160
# Tiny frames in grey for the signature, a second, and at most.
SIGNATURES_A_SECOND = 8
MOST_SIGNATURES = 160
SIGNATURE_SIDE = 32
# What lies beyond, an eighth at each border, is left away: logos, tickers and bars lie there.
_WITH_BORDERS = 44
# Decoded bytes that a clip's frames take in memory.
_COST = FRAMES * (SIDE * SIDE * 3 + 2 * GREY_SIDE * GREY_SIDE) + MOST_SIGNATURES * 4096


@dataclass(frozen=True)
class ClipFrames:
    """Moments of a clip."""

    # uint8 RGB [n, height, width, 3], n <= 12, evenly spread; the longer side at most 256.
    frames: NDArray[np.uint8]
    # uint8 grey [n, 2, height, width]: the frame at each of those moments, and about 1/8 s later.
    pairs: NDArray[np.uint8]
    # Seconds between the two of each pair, [n]; 0 where the clip ends before.
    gaps: NDArray[np.float32]
    # float32 grey [m, 32, 32], eight a second, m <= 160: the inner three quarters of the frame.
    signature: NDArray[np.float32]


def decode_clip(data: bytes) -> ClipFrames:
    """Decode a clip once. Raises `VideoError` for what is no video, `ValueError` if no frame
    decodes."""
    with open_video(data) as container:
        stream = video_stream(container)
        count = int(stream.frames or 0)
        fps = float(stream.average_rate or 25)
        if not count:
            count = max(1, round(float((stream.duration or 0) * (stream.time_base or 0)) * fps))
        ahead = max(1, round(STEP_S * fps))
        moments = moments_of(count)
        later = {moment + ahead: i for i, moment in enumerate(moments)}
        wanted = {moment: i for i, moment in enumerate(moments)}
        every = max(count / MOST_SIGNATURES, fps / SIGNATURES_A_SECOND, 1.0)
        frames: list[Image] = []
        first: dict[int, Image] = {}
        second: dict[int, Image] = {}
        times: dict[int, float] = {}
        signature: list[NDArray[np.float32]] = []
        due = 0.0
        for frame in play(container):
            index = frame.index
            if index in wanted:
                frames.append(pixels(frame.raw, SIDE))
                first[wanted[index]] = _grey(frames[-1])
                times[wanted[index]] = frame.time
            if index in later and later[index] in first:
                i = later[index]
                second[i] = _grey(pixels(frame.raw, SIDE))
                times[i] = frame.time - times[i]
            if index >= due and len(signature) < MOST_SIGNATURES:
                tiny: Any = frame.raw.reformat(
                    width=_WITH_BORDERS, height=_WITH_BORDERS, format="gray8",
                    interpolation="AREA",
                )  # fmt: skip
                edge = (_WITH_BORDERS - SIGNATURE_SIDE) // 2
                inner = tiny.to_ndarray()[edge:-edge, edge:-edge]
                signature.append(inner.astype(np.float32))
                due += every
    if not frames:
        raise ValueError("no frame decodes")
    pairs = np.stack([np.stack([first[i], second.get(i, first[i])]) for i in range(len(frames))])
    gaps = np.array([times[i] if i in second else 0.0 for i in range(len(frames))], np.float32)
    return ClipFrames(np.stack(frames), pairs, gaps, np.stack(signature))


def sample_frames(data: bytes, moments: Sequence[int], longest: int) -> list[Image]:
    """The frames of a clip with these numbers, ascending, each upright uint8 RGB
    [height, width, 3] with a longer side of at most `longest` pixels; the last that decodes stands
    for those after it.

    Raises `VideoError` for what is no video, `ValueError` if no frame decodes.
    """
    wanted, found, last = set(moments), {}, None
    with open_video(data) as container:
        for frame in play(container):
            last = frame
            if frame.index in wanted:
                found[frame.index] = pixels(frame.raw, longest)
                if len(found) == len(wanted):
                    break
    if last is None:
        raise ValueError("no frame decodes")
    if len(found) < len(wanted):
        end = pixels(last.raw, longest)
        return [found.get(moment, end) for moment in moments]
    return [found[moment] for moment in moments]


def moments_of(count: int, most: int = FRAMES) -> list[int]:
    """At most `most` frames of a clip of `count`: the middles of equal stretches."""
    number = min(most, count)
    return sorted({int((i + 0.5) * count / number) for i in range(number)})


def _grey(frame: Image) -> Image:
    height, width = frame.shape[:2]
    scale = min(1.0, GREY_SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small: MatLike = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    grey: MatLike = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.uint8)


def _cost(table: pa.Table) -> list[int]:
    return [_COST] * len(table)


def _seconds(table: pa.Table) -> list[float]:
    """A clip may take five times as long as it plays."""
    return [5 * (seconds or 0.0) for seconds in table["duration_s"].to_pylist()]


CLIP = Media("clip", decode_clip, ("duration_s",), _cost, _seconds)
