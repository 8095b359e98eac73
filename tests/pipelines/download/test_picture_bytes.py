"""What the bytes of a picture say, before anything is resized."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from gristmill.pipelines.download.picture_bytes import (
    Header,
    decode_unchanged,
    decoded_size,
    ends_early,
    looks_like_text,
    read_header,
    turn,
)

PIXELS = np.arange(40 * 24 * 3, dtype=np.uint32).reshape(24, 40, 3).astype(np.uint8)


def encoded(kind: str, orientation: int = 1) -> bytes:
    out = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(PIXELS).save(out, kind, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xef\xbb\xbf\n <!DOCTYPE html><p>", "html"),
        (b"<?xml version='1.0'?><svg/>", "svg"),
        (b"<?xml version='1.0'?><Error/>", "text"),
        (b'{"error": 1}', "text"),
        (encoded("PNG"), None),
        (b"", None),
    ],
)
def test_pages_and_messages_are_told_from_pictures(data: bytes, kind: str | None) -> None:
    assert looks_like_text(data) == kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_header_gives_size_turn_and_mode(kind: str) -> None:
    assert read_header(encoded(kind, orientation=6)) == Header(40, 24, 6, "RGB")
    assert read_header(encoded(kind, orientation=9)) == Header(40, 24, 1, "RGB")
    assert read_header(b"no picture") is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_cut_off_is_seen_and_a_whole_one_is_not(kind: str) -> None:
    data = encoded(kind)
    assert not ends_early(data)
    assert ends_early(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_what_decodes(kind: str) -> None:
    assert decoded_size(encoded(kind)) == (40, 24)
    assert decoded_size(b"\xff\xd8\xff" + bytes(40)) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_is_undone_as_pillow_does_it(orientation: int) -> None:
    data = encoded("PNG", orientation)
    with PIL.Image.open(io.BytesIO(data)) as image:
        from PIL import ImageOps

        wanted = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(turn(PIXELS, orientation), wanted)
    stored = decode_unchanged(data)
    assert np.array_equal(turn(stored, orientation)[..., ::-1], wanted)
    assert decode_unchanged(b"no picture") is None
