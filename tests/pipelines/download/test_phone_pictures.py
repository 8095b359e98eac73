"""Pictures that phones take, and others that OpenCV does not read: upright, in sRGB, or with the
reason."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import PIL.Image
import pillow_heif
import pytest
from colour_profiles import swapped_profile

from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.download import picture_bytes
from gristmill.pipelines.download.resize import PictureWorker, ResizedImage, ResizeSettings
from gristmill.pipelines.download.strip_metadata import format_of

HALVES = np.zeros((64, 96, 3), np.uint8)
HALVES[:, :48] = (220, 30, 30)
HALVES[:, 48:] = (30, 30, 220)


def heic(pixels: Any = HALVES, **fields: Any) -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "HEIF", quality=95, **fields)
    return buffer.getvalue()


def processed(data: bytes, **fields: Any) -> ResizedImage:
    return PictureWorker(ResizeSettings(image_size=64, **fields)).process(data)


def is_red_left_of_blue(data: bytes | None) -> bool:
    pixels = decode_rgb(data or b"").astype(int)
    left, right = pixels[:, : len(pixels[0]) // 3], pixels[:, -len(pixels[0]) // 3 :]
    reds = left[..., 0].mean() - left[..., 2].mean(), right[..., 2].mean() - right[..., 0].mean()
    return bool(min(reds) > 120)


def test_a_heic_is_a_picture_like_others() -> None:
    found = processed(heic())
    assert (found.status, found.original_width, found.original_height) == ("success", 96, 64)
    assert found.format == "jpg" and is_red_left_of_blue(found.image)


@pytest.mark.parametrize("mode", ["always", "never"])
def test_a_heic_is_upright_and_has_the_colours_of_its_profile(mode: str) -> None:
    turned = np.ascontiguousarray(np.rot90(HALVES))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    found = processed(heic(turned, exif=exif.tobytes()), pass_through=mode == "never")
    assert found.status == "success" and is_red_left_of_blue(found.image), "turned by its tag"
    assert found.width > found.height and b"Exif" not in (found.image or b"")
    swapped = processed(heic(HALVES[..., [1, 0, 2]].copy(), icc_profile=swapped_profile()))
    assert is_red_left_of_blue(swapped.image)


def test_without_the_extra_the_reason_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(picture_bytes, "read_header", lambda data: None)
    monkeypatch.setattr("gristmill.pipelines.download.resize.read_header", lambda data: None)
    found = processed(data)
    assert (found.status, found.error) == ("failed_to_decode", "no decoder for heic")


@pytest.mark.parametrize("at", [0.3, 0.9])
def test_a_heic_that_ends_early_is_no_picture(at: float) -> None:
    data = heic(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    found = processed(data[: int(len(data) * at)])
    assert found.status == "failed_to_decode"
    assert found.error in ("truncated image", "not decodable", "no decoder for heic")


@pytest.mark.parametrize("kind", ["AVIF", "ICO", "DDS", "SGI", "TIFF", "GIF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["always", "never"])
def test_what_a_folder_takes_for_pictures_is_read(kind: str, mode: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(HALVES).save(buffer, kind)
    found = processed(buffer.getvalue(), pass_through=mode == "never")
    assert (found.status, found.error) == ("success", None)
    assert is_red_left_of_blue(found.image)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf", "avif"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2mp41", None),
    ],
)
def test_brands_tell_what_a_file_of_boxes_is(head: bytes, kind: str | None) -> None:
    assert format_of(head + bytes(40)) == kind
