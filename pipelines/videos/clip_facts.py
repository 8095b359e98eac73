"""What can be told of a clip by looking at its frames alone: motion, stillness, bars, sharpness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipelines.media import Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score
from gristmill.pipelines.videos.frames import CLIP, ClipFrames

if TYPE_CHECKING:
    from cv2.typing import MatLike

# Grey levels by which some part of frames 1/8 s apart differs at least if anything moves, and the
# side of a part in pixels; noise of compression stays below.
_STILL, _PART = 4.0, 7
# A row or column of pixels whose brightest stays below belongs to a black bar.
_BLACK = 24
# A frame is black if its mean grey level stays below.
_DARK = 12


@dataclass(frozen=True, kw_only=True)
class ClipFacts(Score):
    """Motion of things and of the camera, apart; still and black shares; bars; sharpness.

    Motion is dense optical flow (DIS, Kroeger et al. 2016) between frames 1/8 s apart. What one
    similarity (shift, turn, zoom) explains of it is the camera's; the rest is that of things.
    """

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", "opencv-python-headless")

    def writes(self) -> pa.Schema:
        """One float a fact."""
        return pa.schema(
            [
                pa.field("motion", pa.float32()),
                pa.field("camera_motion", pa.float32()),
                pa.field("static_share", pa.float32()),
                pa.field("black_share", pa.float32()),
                pa.field("letterbox_share", pa.float32()),
                pa.field("sharpness", pa.float32()),
                pa.field("brightness", pa.float32()),
                pa.field("contrast", pa.float32()),
                pa.field("text_share", pa.float32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "motion": ColumnFacts(
                "Motion of things: mean over the clip of the fastest twentieth of the frame.",
                "frame diagonals/s",
                low=0,
            ),
            "camera_motion": ColumnFacts(
                "Motion of the camera, likewise; shaking counts as much as panning.",
                "frame diagonals/s",
                low=0,
            ),
            "static_share": ColumnFacts(
                "Share of moments at which nothing changes.", low=0, high=1
            ),
            "black_share": ColumnFacts(
                "Share of moments at which the frame is black.", low=0, high=1
            ),
            "letterbox_share": ColumnFacts(
                "Share of the frame that black bars take, at all moments.", low=0, high=1
            ),
            "sharpness": ColumnFacts(
                "Median variance of the Laplacian of grey levels; below ~50 looks blurred.", low=0
            ),
            "brightness": ColumnFacts("Mean grey level.", low=0, high=1),
            "contrast": ColumnFacts("Standard deviation of grey levels.", low=0, high=1),
            "text_share": ColumnFacts(
                "Share of the frame that looks like lettering: dense fine strokes in lines.",
                low=0,
                high=1,
            ),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Measure each clip."""
        assert images is not None
        rows = [_measure(clip) for clip in images]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _measure(clip: ClipFrames) -> tuple[float, ...]:
    moving, camera, still = [], [], []
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for (first, second), gap in zip(clip.pairs, clip.gaps, strict=True):
        if gap <= 0:
            continue
        difference: MatLike = cv2.absdiff(first, second)
        still.append(float(cv2.blur(difference.astype(np.float32), (_PART, _PART)).max()) < _STILL)
        if still[-1]:
            moving.append(0.0)
            camera.append(0.0)
            continue
        own, whole = split_motion(flow.calc(first, second, None))
        diagonal = float(np.hypot(*first.shape))
        moving.append(own / diagonal / float(gap))
        camera.append(whole / diagonal / float(gap))
    grey = clip.pairs[:, 0]
    sharpness = [float(cv2.Laplacian(frame, cv2.CV_64F).var()) for frame in _large_grey(clip)]
    facts = (
        _mean(moving),
        _mean(camera),
        _mean([float(value) for value in still]) if still else 1.0,
        float((grey.mean(axis=(1, 2)) < _DARK).mean()),
        _bars(grey),
        float(np.median(sharpness)),
        float(grey.mean() / 255),
        float(grey.std(axis=(1, 2)).mean() / 255),
        _mean([_lettering(frame) for frame in _large_grey(clip)[::3]]),
    )
    return tuple(round(fact, 5) for fact in facts)


def split_motion(flow: NDArray[np.generic]) -> tuple[float, float]:
    """Flow [height, width, 2] in pixels -> the mean of the fastest twentieth of what the camera
    does not explain, and the mean of what it does. The camera's part is the similarity that fits
    most of it."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[4:height:8, 4:width:8]
    start = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
    moved = flow[4:height:8, 4:width:8].reshape(-1, 2).astype(np.float64)
    keep = np.ones(len(start), bool)
    camera = np.zeros_like(moved)
    # Least squares, then again without what fits worst: a few rounds trim what moves by itself.
    for _ in range(4):
        x, y = (start[keep] - start.mean(axis=0)).T
        one, none = np.ones_like(x), np.zeros_like(x)
        matrix = np.concatenate(
            [np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)]
        )
        fit = np.linalg.lstsq(matrix, moved[keep].T.reshape(-1), rcond=None)[0]
        x, y = (start - start.mean(axis=0)).T
        camera = np.stack(
            [fit[0] * x - fit[1] * y + fit[2], fit[1] * x + fit[0] * y + fit[3]], axis=1
        )
        error = np.hypot(*(moved - camera).T)
        keep = error <= max(np.median(error) * 2, 0.25)
    own = np.sort(np.hypot(*(moved - camera).T))
    return float(own[-max(1, len(own) // 20) :].mean()), float(np.hypot(*camera.T).mean())


def _bars(grey: NDArray[np.uint8]) -> float:
    """Share of black rows and columns at the borders, in all frames at once."""
    brightest = grey.max(axis=0)
    if brightest.max() < _BLACK:
        return 0.0
    rows = np.flatnonzero(brightest.max(axis=1) >= _BLACK)
    columns = np.flatnonzero(brightest.max(axis=0) >= _BLACK)
    inside = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return float(1 - inside / brightest.size)


def _large_grey(clip: ClipFrames) -> list[Any]:
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]


def _lettering(grey: Any) -> float:
    """Share of the frame within boxes of dense fine strokes: morphological gradient, closed along
    lines; boxes that are wider than high, and well filled."""
    strokes = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    _, strong = cv2.threshold(strokes, 60, 255, cv2.THRESH_BINARY)
    joined = cv2.morphologyEx(strong, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(joined)
    area = 0.0
    for i in range(1, count):
        _, _, width, height, filled = (int(value) for value in boxes[i])
        is_line = 5 <= height <= grey.shape[0] // 4 and width >= 2 * height
        if is_line and filled >= 0.45 * width * height:
            area += width * height
    return float(min(1.0, area / grey.size))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
