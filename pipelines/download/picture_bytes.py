"""What the bytes of a picture say before anything is resized: kind, size, orientation, end.

Foreign bytes: for supervised children only.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from dataclasses import dataclass
from typing import Any

from gristmill.pipelines.download.colour_profiles import GREY
from gristmill.pipelines.download.png_colours import profile_of_png
from gristmill.pipelines.download.strip_metadata import format_of, is_truncated

# Formats that OpenCV does not read, of those that have a mark of their own.
_BY_PILLOW = ("DDS", "HEIF", "ICO", "PSD", "SGI")


def looks_like_text(data: bytes) -> str | None:
    """svg, html or text, by the beginning of the bytes; None for anything else."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4096].lower():
        return "svg"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return "html"
    if head.startswith((b"{", b"[", b"<?xml")):
        return "text"
    return None


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    width: int
    height: int
    # EXIF tag, 1..8; 1: upright, or no tag.
    orientation: int
    # As Pillow names it.
    mode: str
    # ICC, as it came, or what gamma and primaries of a PNG come to.
    profile: bytes | None = None
    # One of its colours is transparent, or several of its palette.
    keyed: bool = False
    # OpenCV does not read it.
    by_pillow: bool = False


def read_header(data: bytes) -> Header | None:
    """What the beginning of the bytes says, without decoding; None if Pillow cannot tell."""
    import PIL.Image

    _know_heif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                orientation = _orientation(image)
                profile = image.info.get("icc_profile")
                if not profile and image.format == "PNG":
                    profile = profile_of_png(image.info, grey=image.mode in GREY)
                return Header(
                    width,
                    height,
                    orientation if 1 <= orientation <= 8 else 1,
                    str(image.mode),
                    profile if isinstance(profile, bytes) and profile else None,
                    "transparency" in image.info,
                    image.format in _BY_PILLOW,
                )
        except MemoryError:
            raise
        except Exception:
            return None


@functools.cache
def _know_heif() -> None:
    """Have Pillow read what phones take, where the extra `heif` is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def loads(data: bytes) -> bool:
    """Whether Pillow decodes a picture to its end."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError):
            return False
    return True


def _orientation(image: Any) -> int:
    """EXIF orientation of an opened picture. `getexif` of a PNG would decode it whole, bombs
    too."""
    import PIL.Image

    # EXIF is foreign data of its own; a broken one says nothing about the picture.
    with contextlib.suppress(Exception):
        exif = PIL.Image.Exif()
        if image.format == "PNG":
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
        return int(exif.get(0x0112, 1))
    return 1


def orientation_of(data: bytes) -> int:
    """The orientation that EXIF tells, 1..8, from its byte order mark on; 1 if it tells none."""
    import PIL.Image

    if not data:
        return 1
    # Foreign data of its own; a broken one says nothing about the picture.
    with contextlib.suppress(Exception):
        exif = PIL.Image.Exif()
        exif.load(b"Exif\0\0" + data)
        found = int(exif.get(0x0112, 1))
        return found if 1 <= found <= 8 else 1
    return 1


def ends_early(data: bytes) -> bool:
    """Whether bytes are missing at the end."""
    early = is_truncated(data)
    if early is not None:
        return early
    # The end mark is missing: some writers leave it out, so a strict decoder decides.
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return "truncat" in str(error).lower() or "unexpected end" in str(error).lower()
    return False


def decoded_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as decoded. JPEGs are decoded at an eighth: all bytes are read all the
    same."""
    import cv2
    import numpy as np

    header = read_header(data)
    if header is not None and header.by_pillow:
        return (header.width, header.height) if loads(data) else None
    flags = cv2.IMREAD_UNCHANGED
    if header is not None and format_of(data) == "jpg":
        flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if header is not None:
        return header.width, header.height
    return int(pixels.shape[1]), int(pixels.shape[0])


def decode_unchanged(data: bytes) -> Any:
    """Pixels as OpenCV has them: any depth, grey, BGR or BGRA; None if the bytes do not decode."""
    import cv2
    import numpy as np

    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def turn(pixels: Any, orientation: int) -> Any:
    """Undo an EXIF orientation (TIFF 6.0, tag 274)."""
    import numpy as np

    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
