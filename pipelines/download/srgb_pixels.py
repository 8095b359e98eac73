"""A picture as 8-bit sRGB, as viewers show it, where OpenCV by itself would give something else.

More than 8 bits a channel, numbers that are no bytes, alpha that OpenCV leaves out, colour profiles
with other primaries. Everything else is left to the Resizer's own decoder, so that its pixels stay
img2dataset's. Foreign bytes: for supervised children only.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.decode import DecodeError, to_bytes
from gristmill.pipelines.download.colour_profiles import (
    Pixels,
    apply_profile,
    changes_colours,
    transform_of,
)
from gristmill.pipelines.download.picture_bytes import Header, decode_unchanged
from gristmill.pipelines.download.strip_metadata import format_of

# Read by OpenCV as everybody does, but for PNGs of 16 bits.
_EIGHT_BITS = ("jpg", "png", "webp", "gif", "bmp")
_DEEP_PNG = b"\x10"
# Modes of Pillow of TIFFs whose alpha or colours OpenCV misreads.
_MISREAD_TIFFS = ("LA", "La", "PA", "RGBA", "RGBa", "LAB")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Rows of pixels that are laid on white at a time, which bounds the memory that it takes.
_STRIP = 256


def srgb_pixels(data: bytes, header: Header | None) -> Pixels | None:
    """8-bit sRGB pixels, alpha laid on white; None where OpenCV's own decoder gives them.

    Raises `DecodeError` for numbers whose range nobody knows.
    """
    kind = format_of(data)
    mode = header.mode if header else ""
    profile = header.profile if header and changes_colours(header.profile, mode) else None
    if header and header.by_pillow:
        return _read_by_pillow(data, profile)
    # OpenCV leaves out the transparent grey of a PNG.
    keyed = kind == "png" and header is not None and header.keyed and mode in ("1", "L", "I;16")
    deep = kind == "png" and data[24:25] == _DEEP_PNG
    if kind in _EIGHT_BITS and not (deep or keyed or profile):
        return None
    misread = kind == "tif" and mode in _MISREAD_TIFFS
    if keyed or misread or (profile and mode == "CMYK"):
        return _read_by_pillow(data, profile)
    raw = decode_unchanged(data)
    if raw is None or (raw.dtype == np.uint8 and not profile):
        return None
    if kind == "hdr":
        raise DecodeError("high dynamic range picture")
    if raw.dtype == np.uint16 and kind not in ("png", "tif"):
        depth = _depth_of_jpeg2000(data)
        if depth is None:
            # Only Pillow knows how many of the 16 bits are used.
            return _read_by_pillow(data, profile)
        raw = raw << (16 - depth)
    pixels = lay_on_white(to_bytes(raw))
    return apply_profile(pixels, profile) if profile else pixels


def as_file(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a file for the Resizer: lossless, and of a kind that nothing is stored as."""
    return bytes(cv2.imencode(".bmp", pixels)[1].tobytes())


def lay_on_white(pixels: NDArray[np.uint8]) -> Pixels:
    """Pixels without their alpha, by img2dataset's formula."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    laid = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _STRIP):
        strip = pixels[top : top + _STRIP]
        alpha = strip[:, :, 3:]
        mixed = alpha / 255 * strip[..., :3] + 255 - alpha
        laid[top : top + _STRIP] = np.rint(mixed.clip(min=0, max=255)).astype(np.uint8)
    return laid


def _read_by_pillow(data: bytes, profile: bytes | None) -> Pixels:
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                image.load()
                return _pixels_of(image, profile)
        except (OSError, SyntaxError, ValueError) as error:
            raise DecodeError("not decodable") from error


def _pixels_of(image: Any, profile: bytes | None) -> Pixels:
    """Pixels of a picture that Pillow has loaded."""
    key = image.info.get("transparency")
    if image.mode in ("I", "I;16"):
        values = np.asarray(image).astype(np.uint16)
        grey = to_bytes(values)
        grey[values == (key if isinstance(key, int) else -1)] = 255
        return apply_profile(grey, profile) if profile else grey
    if image.mode == "CMYK" and profile:
        transform = transform_of(profile, "CMYK")
        image, profile = transform.apply(image) if transform else image.convert("RGB"), None
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif key is not None or image.mode in _WITH_ALPHA:
        # Premultiplied grey goes to no other mode at once.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    elif image.mode != "L":
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 3:
        order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
        pixels = lay_on_white(np.asarray(cv2.cvtColor(pixels, order), np.uint8))
    return apply_profile(pixels, profile) if profile else np.ascontiguousarray(pixels)


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")


def _depth_of_jpeg2000(data: bytes) -> int | None:
    """Bits a channel, from the image header box or the size marker; None for other formats."""
    if data[4:8] == b"jP  ":
        at = data.find(b"ihdr", 0, 256)
        return (data[at + 14] & 0x7F) + 1 if at > 0 else None
    if data[:4] == b"\xff\x4f\xff\x51":
        return (data[42] & 0x7F) + 1
    return None
