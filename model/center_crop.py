"""What the model sees of a picture file: one square of one size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_center_crop(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 RGB [h, w, 3] -> [side, side, 3]: the shorter side to `side` by averaging, then the
    centre square. Deterministic: the same pixels give the same view."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = picture if size == (width, height) else cv2.resize(picture, size, interpolation=how)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return np.ascontiguousarray(small[top : top + side, left : left + side])
