"""Metadata goes, pixels stay, and what cannot be done is not done."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gristmill.pipelines.download.strip_metadata import format_of, is_truncated, strip_metadata

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def picture(kind: str, *, metadata: bool) -> bytes:
    """Noise, with EXIF, an ICC profile and a comment or without."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    extras: dict[str, object] = {}
    if metadata:
        exif = Image.Exif()
        exif[0x010E] = "SECRET-EXIF"
        extras = {"exif": exif.tobytes(), "icc_profile": b"SECRET-ICC" + bytes(200)}
        if kind == "png":
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", "SECRET-TEXT")
            extras["pnginfo"] = text
        elif kind == "jpg":
            extras["comment"] = b"SECRET-COMMENT"
    Image.fromarray(pixels).save(file, KINDS[kind], **extras)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_without_metadata(kind: str) -> None:
    data = picture(kind, metadata=True)
    assert b"SECRET" in data and format_of(data) == kind
    stripped = strip_metadata(data)
    assert stripped is not None and b"SECRET" not in stripped
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(stripped)) as after:
        assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))
        assert not after.getexif() and "icc_profile" not in after.info
    # Once more changes nothing.
    assert strip_metadata(stripped) == stripped


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_is_not_patched_up(kind: str) -> None:
    data = picture(kind, metadata=False)
    assert is_truncated(data) is False
    # False would say that it is whole.
    assert is_truncated(data[:-10]) is not False
    if kind != "webp":
        assert strip_metadata(data[:-10]) is None


def test_what_follows_a_picture_s_end_goes() -> None:
    data = picture("jpg", metadata=False)
    assert strip_metadata(data + b"SECRET" + data) == strip_metadata(data)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GIF89a", "gif"), (b"BM12", "bmp"), (b"II*\0", "tif"), (b"MM\0+", "tif"),
        (b"\0\0\0\x20ftypavif", "avif"), (b"<!DOCTYPE html>", None), (b"", None),
        (b"RIFF\0\0\0\0WAVE", None),
    ],
)  # fmt: skip
def test_formats_by_their_first_bytes(start: bytes, kind: str | None) -> None:
    assert format_of(start) == kind and strip_metadata(start) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_stays_where_it_is_asked_for_and_nothing_else(kind: str) -> None:
    stripped = strip_metadata(picture(kind, metadata=True), keep_profile=True)
    assert stripped is not None
    with Image.open(io.BytesIO(stripped)) as image:
        assert image.info["icc_profile"].startswith(b"SECRET-ICC")
        assert not image.getexif()
    assert b"SECRET-EXIF" not in stripped and b"SECRET-TEXT" not in stripped
    assert b"SECRET-COMMENT" not in stripped
