"""What can be told of a picture by looking at its pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.stage import Score

# Facts are measured at this longer side, so that they do not depend on the size stored.
_SIDE = 256
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
            # Variance of the Laplacian of grey levels (Pech-Pacheco 2000); below ~50 looks blurred.
            "sharpness": pa.float32(),
            # Bits of the grey-level histogram, 0..8.
            "entropy": pa.float32(),
            # Share of pixels within 8 levels of the median colour, 0..1.
            "blank_share": pa.float32(),
            # Mean and standard deviation of grey levels, 0..1.
            "brightness": pa.float32(),
            "contrast": pa.float32(),
            # Hasler & Suesstrunk 2003; 0 grey, ~15 slight, ~109 extreme.
            "colourfulness": pa.float32(),
            # Longer side by shorter side, >= 1.
            "aspect": pa.float32(),
            # Whether all three channels are alike.
            "is_grey": pa.bool_(),
        }
        return pa.schema([pa.field(name, kind) for name, kind in floats.items()])

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Measure each picture."""
        assert images is not None
        rows = [_measure(image) for image in images]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _measure(image: Image) -> tuple[Any, ...]:
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    small: Any = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey: Any = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    histogram = np.bincount(grey.reshape(-1), minlength=256) / grey.size
    used = histogram[histogram > 0]
    flat = small.reshape(-1, 3).astype(np.int16)
    median = np.median(flat, axis=0)
    blank = (np.abs(flat - median).max(axis=1) <= _BLANK_TOLERANCE).mean()
    red, green, blue = flat.T.astype(np.float64)
    first, second = red - green, (red + green) / 2 - blue
    colourfulness = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(
        first.mean(), second.mean()
    )
    facts = (
        float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        float(-(used * np.log2(used)).sum()),
        float(blank),
        float(grey.mean() / 255),
        float(grey.std() / 255),
        float(colourfulness),
        max(height, width) / min(height, width),
    )
    is_grey = bool((flat[:, 0] == flat[:, 1]).all() and (flat[:, 1] == flat[:, 2]).all())
    return (*(round(abs(fact), 5) for fact in facts), is_grey)
