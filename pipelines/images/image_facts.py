"""What can be told of a picture by looking at its pixels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score

if TYPE_CHECKING:
    from cv2.typing import MatLike

# Facts are measured at this longer side, so that they do not depend on the size stored.
_SIDE = 256
# Red less green, and their mean less blue (Hasler & Suesstrunk 2003).
_OPPONENTS = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)
# Grey levels within which a pixel counts as being of the commonest colour.
_BLANK_TOLERANCE = 8


@dataclass(frozen=True, kw_only=True)
class ImageFacts(Score):
    """Sharpness, entropy, blankness, brightness, contrast, colour and shape of each picture."""

    media: ClassVar[Media | None] = PICTURE
    libraries: ClassVar[tuple[str, ...]] = ("opencv-python-headless",)

    def writes(self) -> pa.Schema:
        """One float or truth value a fact."""
        floats = {
            "sharpness": pa.float32(),
            "entropy": pa.float32(),
            "blank_share": pa.float32(),
            "brightness": pa.float32(),
            "contrast": pa.float32(),
            "colourfulness": pa.float32(),
            "aspect": pa.float32(),
            "is_grey": pa.bool_(),
        }
        return pa.schema([pa.field(name, kind) for name, kind in floats.items()])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "sharpness": ColumnFacts(
                "Variance of the Laplacian of grey levels (Pech-Pacheco 2000); "
                "below ~50 looks blurred.",
                low=0,
            ),
            "entropy": ColumnFacts("Entropy of the grey-level histogram.", "bits", low=0, high=8),
            "blank_share": ColumnFacts(
                "Share of pixels within 8 levels of the median colour.", low=0, high=1
            ),
            "brightness": ColumnFacts("Mean of grey levels.", low=0, high=1),
            "contrast": ColumnFacts("Standard deviation of grey levels.", low=0, high=1),
            "colourfulness": ColumnFacts(
                "Hasler & Suesstrunk 2003; 0 grey, ~15 slight, ~109 extreme.", low=0
            ),
            "aspect": ColumnFacts("Longer side by shorter side.", low=1),
            "is_grey": ColumnFacts("Whether all three channels are alike."),
        }

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Measure each picture."""
        assert images is not None
        rows = [_measure(image) for image in images]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _measure(image: Image) -> tuple[object, ...]:
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    small: Any = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey: MatLike = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    pixels = grey.size
    shares = np.bincount(grey.reshape(-1), minlength=256) / pixels
    used = shares[shares > 0]
    # Integers all through, so the sums are exact and whole numbers decide what is blank.
    medians = np.array([_median(small[:, :, channel]) for channel in range(3)])
    lowest = np.ceil(medians - _BLANK_TOLERANCE)
    highest = np.floor(medians + _BLANK_TOLERANCE)
    blank = cv2.countNonZero(cv2.inRange(small, lowest, highest)) / pixels
    # Red against green, and yellow against blue.
    opposed = cv2.transform(small.astype(np.float32), _OPPONENTS)
    means, deviations = cv2.meanStdDev(opposed)
    laplacian = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    mean, deviation = cv2.meanStdDev(grey)
    facts = (
        float(laplacian[0, 0]) ** 2,
        float(-(used * np.log2(used)).sum()),
        float(blank),
        float(mean[0, 0]) / 255,
        float(deviation[0, 0]) / 255,
        float(np.hypot(*deviations[:, 0]) + 0.3 * np.hypot(*means[:, 0])),
        max(height, width) / min(height, width),
    )
    is_grey = not means.any() and not deviations.any()
    return (*(round(abs(fact), 5) for fact in facts), is_grey)


def _median(channel: Any) -> float:
    """Of 8-bit values, by counting them."""
    below = np.cumsum(np.bincount(channel.reshape(-1), minlength=256))
    count = int(below[-1])
    return float(np.searchsorted(below, [(count + 1) // 2, count // 2 + 1]).mean())
