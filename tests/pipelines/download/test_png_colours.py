"""What gamma and primaries of a PNG do to its colours, beside what ICC profiles would do."""

from __future__ import annotations

import io
import struct

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from gristmill.pipelines.download.picture_bytes import read_header
from gristmill.pipelines.download.png_colours import profile_of_png
from gristmill.pipelines.download.resize import PictureWorker, ResizeSettings
from gristmill.pipelines.download.srgb_pixels import srgb_pixels

COLOURS = np.array([[200, 60, 30], [10, 128, 250], [128, 128, 128], [255, 255, 255]], np.uint8)
WHITE = (0.3127, 0.329)
SRGB = (*WHITE, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE = (*WHITE, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def png(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    gamma: float | None = None,
    primaries: tuple[float, ...] | None = None,
    *,
    srgb: bool = False,
) -> bytes:
    said = PngInfo()
    if gamma is not None:
        said.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    if primaries is not None:
        said.add(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries)))
    if srgb:
        said.add(b"sRGB", b"\0")
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", pnginfo=said)
    return file.getvalue()


def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.repeat(COLOURS[None], 4, axis=0)


def seen(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    """RGB of what is stored; None where OpenCV's own decoder gives it."""
    found = srgb_pixels(data, read_header(data))
    return found if found is None or found.ndim == 2 else found[..., ::-1]


def to_xyz(primaries: tuple[float, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    x, y = np.reshape(primaries, (4, 2)).T
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    return np.asarray(xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0]))


def test_a_gamma_is_one_relative_to_a_display() -> None:
    found = seen(png(picture(), 1.0))
    assert found is not None
    wanted = 255 * (COLOURS / 255) ** (1 / 2.2)
    # Little CMS' own steps.
    assert np.abs(found[0] - wanted).max() <= 2
    grey = seen(png(np.full((4, 4), 128, np.uint8), 1.0))
    assert grey is not None and grey.ndim == 2 and abs(int(grey[0, 0]) - 186) <= 1


def test_primaries_go_to_those_of_srgb() -> None:
    found = seen(png(picture(), 0.45455, ADOBE))
    assert found is not None
    values = COLOURS / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    meant = np.clip(light @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(ADOBE)).T, 0, 1)
    wanted = 255 * np.where(meant <= 0.0031308, 12.92 * meant, 1.055 * meant ** (1 / 2.4) - 0.055)
    assert np.abs(found[0] - wanted).max() <= 2
    # Greys and white stay.
    assert np.abs(found[0, 2:].astype(int) - COLOURS[2:]).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        png(picture()),
        png(picture(), 0.45455),
        png(picture(), 0.45455, SRGB),
        # sRGB stands above both.
        png(picture(), 1.0, ADOBE, srgb=True),
        # Without a gamma nobody knows what light the primaries are of.
        png(picture(), None, ADOBE),
        png(picture(), 0.0),
        png(picture(), 42_000.0),
        png(picture(), 1.0, (0.0,) * 8),
        png(picture(), 1.0, (*WHITE, *(0.3, 0.3) * 3)),
        png(picture(), 1.0, (40_000.0,) * 8),
        png(np.full((4, 4), 128, np.uint8), 0.45455),
    ],
)
def test_what_changes_nothing_or_means_nothing_is_left_alone(data: bytes) -> None:
    assert seen(data) is None


def test_of_one_colour_its_gamma_alone_counts() -> None:
    info = {"gamma": 1.0, "chromaticity": (0.0,) * 8}
    assert profile_of_png(info, grey=True) and profile_of_png(info, grey=False) is None
    assert profile_of_png({"gamma": "1"}, grey=True) is None


def test_passed_through_it_keeps_what_it_says_of_its_colours() -> None:
    data = png(np.repeat(picture(), 8, axis=1).repeat(4, axis=0), 1.0, ADOBE)
    settings = ResizeSettings(pass_through=True, mixed=True)
    stored = PictureWorker(settings).process(data).image
    assert stored is not None
    info = PIL.Image.open(io.BytesIO(stored)).info
    assert info["gamma"] == 1.0 and info["chromaticity"] == ADOBE
