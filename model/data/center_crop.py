"""What the model sees of a picture file: the middle of it, at the size that is asked for."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_center_crop(
    picture: NDArray[np.uint8], height: int, width: int | None = None
) -> NDArray[np.uint8]:
    """uint8 RGB [h, w, 3] -> [height, width, 3], a square without `width`: as small as covers the
    size, by averaging, then its middle. Deterministic: the same pixels give the same view."""
    width = height if width is None else width
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (
        max(width, round(picture.shape[1] * scale)),
        max(height, round(picture.shape[0] * scale)),
    )
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    same = size == (picture.shape[1], picture.shape[0])
    small = picture if same else cv2.resize(picture, size, interpolation=how)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])
