"""Stored bytes -> RGB pixels, for scoring, and back. What is stored was decoded once already by
the download."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""One decoded picture: uint8 RGB, [height, width, 3]."""
# Share of a range by which numbers may lie beyond its ends: sharpening leaves such.
_BEYOND = 0.1
# From here on the largest of real numbers says that white is not 1.
_CLEAR = 16


class DecodeError(ValueError):
    """Bytes that no decoder here takes for a picture."""


def decode_rgb(data: bytes) -> Image:
    """Decode to uint8 RGB [height, width, 3]; alpha is laid on white, 16 bit is cut to 8.

    Raises `DecodeError` for anything that is not a picture, or whose range nobody knows.
    """
    # OpenCV raises an error of its own for no bytes at all.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise DecodeError(f"{len(data)} bytes that do not decode as an image")
    pixels = to_bytes(pixels)
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


def to_bytes(pixels: NDArray[Any]) -> Image:
    """Pixels of any number as bytes of the same shape. 16 bit is cut to 8; other numbers have no
    range of their own, so it is told from the largest: 0..1, or one that fewer bits fill.

    Raises `DecodeError` where none fits.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    tops: tuple[float, ...]
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels.astype(np.float32, copy=False), posinf=np.inf, neginf=-np.inf)
        tops = (1.0, 255.0, 65535.0)
    else:
        most = float(np.iinfo(pixels.dtype).max)
        tops = (255.0, 65535.0, most) if pixels.dtype.itemsize >= 4 else (most,)
    low, high = float(pixels.min()), float(pixels.max())
    top = next((top for top in tops if high <= top * (1 + _BEYOND)), None)
    # Between, a number may be a light or almost black.
    unclear = pixels.dtype.kind == "f" and 1 + _BEYOND < high < _CLEAR
    if top is None or low < -_BEYOND * top or unclear:
        raise DecodeError("unknown range of values")
    found = np.empty(pixels.shape, np.uint8)
    for row, values in enumerate(pixels):
        found[row] = np.clip(np.rint(values.astype(np.float64) * (255 / top)), 0, 255)
    return found
