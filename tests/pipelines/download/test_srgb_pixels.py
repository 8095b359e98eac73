"""Our copy of a picture is the picture, whatever numbers it is made of."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from colour_profiles import swapped_profile

from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.download.picture_bytes import read_header
from gristmill.pipelines.download.resize import PictureWorker, ResizeSettings
from gristmill.pipelines.download.srgb_pixels import lay_on_white, srgb_pixels

RNG = np.random.default_rng(0)
RGB = np.asarray(cv2.resize(RNG.integers(0, 255, (6, 8, 3), np.uint8), (64, 48)), np.uint8)
BGR = RGB[..., ::-1].copy()
GREY = np.asarray(cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY), np.uint8)
ALPHA = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
THREE_GREYS = np.dstack([GREY] * 3)
DEEP = GREY.astype(np.uint16) * 257


def saved(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = PIL.Image.fromarray(pixels, mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def by_opencv(end: str, pixels: Any, *options: int) -> bytes:
    return bytes(cv2.imencode(end, pixels, options)[1].tobytes())


def laid(pixels: Any, alpha: Any = ALPHA) -> Any:
    return lay_on_white(np.dstack([pixels, alpha]))


def cmyk() -> PIL.Image.Image:
    return PIL.Image.fromarray(RGB).convert("CMYK")


def printed(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    cmyk().save(out, kind, **options)
    return out.getvalue()


# name -> file, what viewers show, greatest mean difference in grey levels.
KINDS: dict[str, tuple[bytes, Any, float]] = {
    "png 16 grey": (by_opencv(".png", DEEP), THREE_GREYS, 0),
    "png 16 rgb": (by_opencv(".png", BGR.astype(np.uint16) * 257), RGB, 0),
    "png 16 rgba": (
        by_opencv(".png", np.dstack([BGR, ALPHA]).astype(np.uint16) * 257), laid(RGB), 0,
    ),
    "png 8 grey alpha": (saved(np.dstack([GREY, ALPHA]), "PNG", "LA"), laid(THREE_GREYS), 0),
    "png 8 rgba": (saved(np.dstack([RGB, ALPHA]), "PNG"), laid(RGB), 0),
    "png 8 one grey transparent": (
        saved(GREY, "PNG", transparency=int(GREY[5, 5])),
        np.where((GREY[5, 5] == GREY)[..., None], 255, THREE_GREYS), 0,
    ),
    "png 16 one grey transparent": (
        saved(DEEP, "PNG", transparency=int(DEEP[5, 5])),
        np.where((GREY[5, 5] == GREY)[..., None], 255, THREE_GREYS), 0,
    ),
    "tif 16 grey": (saved(DEEP, "TIFF"), THREE_GREYS, 0),
    "tif 16 rgb": (by_opencv(".tiff", BGR.astype(np.uint16) * 257), RGB, 0),
    "tif 16 signed": (by_opencv(".tiff", GREY.astype(np.int16) * 128), THREE_GREYS, 1),
    "tif 32 of 8": (saved(GREY.astype(np.int32), "TIFF"), THREE_GREYS, 0),
    "tif 32 of 16": (saved(DEEP.astype(np.int32), "TIFF"), THREE_GREYS, 0),
    "tif 32 full": (by_opencv(".tiff", GREY.astype(np.int32) * 2**23), THREE_GREYS, 1),
    "tif float of 1": (saved(GREY.astype(np.float32) / 255, "TIFF"), THREE_GREYS, 0),
    "tif float of 255": (saved(GREY.astype(np.float32), "TIFF"), THREE_GREYS, 0),
    "tif float rgb": (by_opencv(".tiff", BGR.astype(np.float32) / 255), RGB, 0),
    "tif double rgb": (by_opencv(".tiff", BGR.astype(np.float64) / 255), RGB, 0),
    "tif rgba": (saved(np.dstack([RGB, ALPHA]), "TIFF"), laid(RGB), 0),
    "tif grey alpha": (saved(np.dstack([GREY, ALPHA]), "TIFF", "LA"), laid(THREE_GREYS), 0),
    "tif cmyk": (printed("TIFF"), np.asarray(cmyk().convert("RGB")), 0),
    "jpg cmyk": (printed("JPEG", quality=98), np.asarray(cmyk().convert("RGB")), 2),
    "pgm 16": (by_opencv(".pgm", DEEP), THREE_GREYS, 0),
    "pgm 10": (
        b"P5 64 48 1023\n" + (GREY.astype(np.uint16) * 4).astype(">u2").tobytes(), THREE_GREYS, 1,
    ),
    "pfm": (by_opencv(".pfm", BGR.astype(np.float32) / 255), RGB, 0),
    "jp2 16": (by_opencv(".jp2", BGR.astype(np.uint16) * 257), RGB, 1),
    "gif palette": (saved(GREY, "GIF"), THREE_GREYS, 0),
}  # fmt: skip


@pytest.mark.parametrize("pass_through", [False, True])
def test_what_is_stored_is_what_viewers_show(pass_through: bool) -> None:
    settings = ResizeSettings(
        resize_mode="no", encode_format="png", encode_quality=1, pass_through=pass_through
    )
    worker = PictureWorker(settings)
    wrong = {}
    for name, (data, shown, most) in KINDS.items():
        found = worker.process(data)
        assert found.status == "success" and found.image, (name, found.error)
        difference = np.abs(decode_rgb(found.image).astype(int) - shown).mean()
        if difference > most:
            wrong[name] = float(difference)
    if pass_through:
        # Stored as it came; that reading it leaves out the transparent grey is no loss of ours.
        assert wrong.pop("png 8 one grey transparent") and wrong.pop("png 16 one grey transparent")
    assert wrong == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_ordinary_pictures_are_left_to_the_resizer(kind: str) -> None:
    data = saved(RGB, kind)
    assert srgb_pixels(data, read_header(data)) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(GREY.astype(np.float32) / 60, "TIFF"), "unknown range of values"),
        (saved(GREY.astype(np.float32) - 200, "TIFF"), "unknown range of values"),
        (saved(GREY.astype(np.float32) * 1e6, "TIFF"), "unknown range of values"),
        (by_opencv(".hdr", BGR.astype(np.float32) / 255), "high dynamic range picture"),
    ],
)
def test_numbers_without_a_range_are_no_picture(data: bytes, reason: str) -> None:
    found = PictureWorker(ResizeSettings(resize_mode="no")).process(data)
    assert (found.status, found.error) == ("failed_to_decode", reason)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("fast", [False, True])
def test_colours_are_those_that_the_profile_means(kind: str, fast: bool) -> None:
    data = saved(np.full((64, 64, 3), (200, 60, 30), np.uint8), kind, icc_profile=swapped_profile())
    settings = ResizeSettings(image_size=16, encode_format="png", encode_quality=1, fast=fast)
    found = PictureWorker(settings).process(data)
    assert found.image is not None
    assert np.abs(decode_rgb(found.image).astype(int) - (60, 200, 30)).max() <= 3
    kept = PictureWorker(ResizeSettings(pass_through=True, mixed=True)).process(data)
    assert kept.image is not None
    with PIL.Image.open(io.BytesIO(kept.image)) as image:
        # What could not be passed through was brought into sRGB.
        assert (kind == "TIFF") == ("icc_profile" not in image.info)


def test_a_profile_of_16_bits_and_one_of_a_turned_picture() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, :32] = (200, 60, 30)
    turned = saved(pixels, "PNG", exif=exif, icc_profile=swapped_profile())
    worker = PictureWorker(ResizeSettings(resize_mode="no", encode_format="png", encode_quality=1))
    found = worker.process(turned)
    assert found.image is not None
    shown = decode_rgb(found.image)
    assert shown.shape == (64, 40, 3)
    assert np.abs(shown[:31].astype(int) - (60, 200, 30)).max() <= 2 and shown[33:].max() <= 1
