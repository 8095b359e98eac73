"""Stored bytes -> RGB pixels, for scoring, and back. What is stored was decoded once already by
the download."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""One decoded picture: uint8 RGB, [height, width, 3]."""


class DecodeError(ValueError):
    """Bytes that no decoder here takes for a picture."""


def decode_rgb(data: bytes) -> Image:
    """Decode to uint8 RGB [height, width, 3]; alpha is laid on white, 16 bit is cut to 8.

    Raises `DecodeError` for anything that is not a picture.
    """
    # OpenCV raises an error of its own for no bytes at all.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise DecodeError(f"{len(data)} bytes that do not decode as an image")
    if pixels.dtype != np.uint8:
        pixels = (pixels // 256).astype(np.uint8) if pixels.dtype == np.uint16 else _to_byte(pixels)
    if pixels.ndim == 2:
        return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.float32) / 255
        laid = pixels[:, :, :3] * alpha + 255 * (1 - alpha)
        pixels = np.rint(laid).astype(np.uint8)
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """uint8 RGB [height, width, 3] as a JPEG file."""
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _to_byte(pixels: np.ndarray) -> Image:
    return np.clip(np.rint(pixels.astype(np.float64) * 255), 0, 255).astype(np.uint8)
