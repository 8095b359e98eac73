"""Whatever a picture was stored as, what comes out is uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gristmill.pipelines.decode import DecodeError, decode_rgb, encode_jpeg

COLOUR = np.zeros((4, 6, 3), np.uint8)
COLOUR[..., 0], COLOUR[..., 1] = 200, 100  # RGB


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("stored", "pixel"),
    [
        (COLOUR[..., ::-1], (200, 100, 0)),
        (np.full((4, 6), 77, np.uint8), (77, 77, 77)),
        (np.full((4, 6, 3), 0x80FF, np.uint16), (0x80,) * 3),
        # Alpha is laid on white: whole, none, half.
        (np.dstack([COLOUR[..., ::-1], np.full((4, 6), 255, np.uint8)]), (200, 100, 0)),
        (np.dstack([COLOUR[..., ::-1], np.zeros((4, 6), np.uint8)]), (255, 255, 255)),
        (np.dstack([np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 51, np.uint8)]), (204,) * 3),
    ],
)
def test_pixels(stored: np.ndarray, pixel: tuple[int, int, int]) -> None:
    image = decode_rgb(png(np.ascontiguousarray(stored)))
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert (image == pixel).all()


@pytest.mark.parametrize("data", [b"nothing", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=f"{len(data)} bytes that do not decode"):
        decode_rgb(data)


def test_a_jpeg_of_it_is_nearly_the_same() -> None:
    again = decode_rgb(encode_jpeg(COLOUR))
    assert np.abs(again.astype(int) - COLOUR).max() < 8
    assert len(encode_jpeg(COLOUR, 20)) < len(encode_jpeg(COLOUR, 100))
