"""Local features of pictures: what survives a crop, a flip or an overlay when a hash does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Needs, Score, setting

if TYPE_CHECKING:
    from cv2.typing import MatLike

DESCRIPTOR = 128
# x and y from the middle of the picture, size (pixels of the working size), angle (degrees).
POINT = 4
# RootSIFT values lie in 0..1, few above a half.
_SCALE = 512.0


@dataclass(frozen=True, kw_only=True)
class LocalFeatures(Score):
    """The strongest SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic & Zisserman
    2012), stored in 8 bits. About 50 pictures a second on one core, 9 kB a picture at 64."""

    media: ClassVar[Media | None] = PICTURE
    libraries: ClassVar[tuple[str, ...]] = ("opencv-python-headless",)

    # Keypoints of a picture; 0 leaves the node out.
    count: int = setting(64, unit="keypoints", low=0)
    # Longer side at which they are looked for.
    side: int = setting(256, unit="pixels", low=1)

    def writes(self) -> pa.Schema:
        """Points and descriptors, zeros where a picture has fewer."""
        return pa.schema(
            [
                pa.field("local_count", pa.int16()),
                pa.field("local_points", pa.list_(pa.float16(), self.count * POINT)),
                pa.field("local_descriptors", pa.list_(pa.uint8(), self.count * DESCRIPTOR)),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "local_count": ColumnFacts("Keypoints found.", "keypoints", low=0),
            "local_points": ColumnFacts(
                "x, y, size and angle of each keypoint, one after the other."
            ),
            "local_descriptors": ColumnFacts("RootSIFT descriptor of each keypoint, in 8 bits."),
        }

    def needs(self) -> Needs:
        """One picture's pyramid."""
        return Needs(memory_gb=0.5)

    def check(self) -> None:
        """Validate the numbers."""
        if not 8 <= self.count <= 1024 or not 64 <= self.side <= 2048:
            raise ConfigurationError(
                f"count {self.count}, side {self.side}: they lie in 8..1024 and 64..2048"
            )

    def is_disabled(self) -> bool:
        """No keypoints are wanted."""
        return self.count == 0

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Describe each picture."""
        assert images is not None
        points = np.zeros((len(images), self.count, POINT), np.float16)
        descriptors = np.zeros((len(images), self.count, DESCRIPTOR), np.uint8)
        counts = np.zeros(len(images), np.int16)
        for number, image in enumerate(images):
            where, what = local_features(image, self.count, self.side)
            counts[number] = len(where)
            points[number, : len(where)] = where
            descriptors[number, : len(where)] = what
        columns: list[object] = [counts]
        for values, width in ((points, POINT), (descriptors, DESCRIPTOR)):
            flat = pa.array(values.reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, self.count * width))
        return pa.table(columns, schema=self.writes())


def local_features(
    image: Image, count: int, side: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points [n, 4] and descriptors [n, 128] of at most `count` keypoints, strongest first."""
    grey: MatLike = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = side / max(grey.shape)
    size = (max(8, round(grey.shape[1] * scale)), max(8, round(grey.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    grey = cv2.resize(grey, size, interpolation=how)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        keypoints, found = cv2.SIFT_create(nfeatures=4 * count).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    finally:
        cv2.setNumThreads(threads)
    if not keypoints:
        return np.zeros((0, POINT), np.float32), np.zeros((0, DESCRIPTOR), np.uint8)
    points = np.array(
        [
            (k.pt[0] - size[0] / 2, k.pt[1] - size[1] / 2, k.size, k.angle, k.response)
            for k in keypoints
        ],
        np.float32,
    )
    # Large ones first survive a smaller copy; among strong ones, so that noise is left out.
    strong = np.argsort(-points[:, 4], kind="stable")[: 2 * count]
    chosen = strong[np.argsort(-points[strong, 2], kind="stable")[:count]]
    values = np.asarray(found, np.float32)[chosen]
    values = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-6))
    return points[chosen, :POINT], np.minimum(np.rint(values * _SCALE), 255).astype(np.uint8)


def mirrored(descriptors: NDArray[np.generic]) -> NDArray[np.generic]:
    """Descriptors [..., 128] of the same pictures seen in a mirror: rows of cells change places,
    and gradients their sign across."""
    cells = descriptors.reshape(*descriptors.shape[:-1], 4, 4, 8)
    turned = cells[..., ::-1, :, :][..., (-np.arange(8)) % 8]
    return np.ascontiguousarray(turned.reshape(descriptors.shape))


def matching_points(
    a: tuple[NDArray[np.generic], NDArray[np.generic]],
    b: tuple[NDArray[np.generic], NDArray[np.generic]],
    *,
    mirror: bool,
    least_area: float = 0.0,
) -> int:
    """Keypoints of two pictures that fit one shift, turn and scale; `mirror`: of `a` mirrored.

    Each side is (points [n, 4], descriptors [n, 128]). Matches are mutual nearest neighbours, and
    nearer than the second by a fifth (Lowe's ratio). 0 if what fits covers less than `least_area`
    of what either picture's keypoints cover: a logo that two pictures share makes no copies.
    """
    left, right = a[1], b[1]
    if min(len(left), len(right)) < 4:
        return 0
    left = mirrored(left) if mirror else left
    x, y = _unit(left), _unit(right)
    cosine = x @ y.T
    best = cosine.argmax(axis=1)
    value = cosine[np.arange(len(x)), best]
    rest = cosine.copy()
    rest[np.arange(len(x)), best] = -1
    # For unit vectors the squared distance is 2 - 2 cos.
    clear = (2 - 2 * value) < 0.64 * (2 - 2 * rest.max(axis=1))
    mutual = cosine.argmax(axis=0)[best] == np.arange(len(x))
    rows = np.flatnonzero(clear & mutual & (value > 0.6))
    if len(rows) < 4:
        return 0
    source = a[0][rows, :2].astype(np.float32) * ([-1, 1] if mirror else [1, 1])
    target = b[0][best[rows], :2].astype(np.float32)
    # OpenCV's stubs promise a model; there may be none.
    model: Any
    model, inliers = cv2.estimateAffinePartial2D(
        source.astype(np.float32), target, method=cv2.RANSAC, ransacReprojThreshold=4.0,
        maxIters=500, confidence=0.99,
    )  # fmt: skip
    if model is None:
        return 0
    scale = float(np.hypot(model[0, 0], model[1, 0]))
    if not 0.2 < scale < 5:
        return 0
    fits = inliers[:, 0] > 0
    whole = a[0][:, :2].astype(np.float32) * ([-1, 1] if mirror else [1, 1])
    cover = max(
        _area(source[fits]) / max(_area(whole), 1.0),
        _area(target[fits]) / max(_area(b[0][:, :2]), 1.0),
    )
    if cover < least_area:
        return 0
    # Many keypoints at one place are one piece of evidence.
    return len(np.unique(np.rint(target[fits] / 4), axis=0))


def _area(points: NDArray[np.generic]) -> float:
    """Of the convex hull."""
    if len(points) < 3:
        return 0.0
    return float(cv2.contourArea(cv2.convexHull(points.astype(np.float32))))


def _unit(values: NDArray[np.generic]) -> NDArray[np.float32]:
    rows = values.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))
