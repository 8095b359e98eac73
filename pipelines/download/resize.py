"""Foreign bytes -> a checked, upright, resized, clean picture. Runs in supervised children only.

Resizing is img2dataset's own Resizer, so for the same settings the pixels are img2dataset's, with
two exceptions: pictures with an EXIF orientation are turned upright (`orient=False` leaves them),
and what img2dataset gets wrong is brought into 8-bit sRGB before (`srgb_pixels.py`).
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from gristmill.pipelines.decode import DecodeError
from gristmill.pipelines.download.colour_profiles import apply_profile, changes_colours
from gristmill.pipelines.download.picture_bytes import (
    Header,
    decode_unchanged,
    decoded_size,
    ends_early,
    looks_like_text,
    orientation_of,
    read_header,
    turn,
)
from gristmill.pipelines.download.srgb_pixels import as_file, srgb_pixels
from gristmill.pipelines.download.strip_metadata import format_of, strip_metadata
from gristmill.pipelines.download.walk_picture import walk_picture
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    FAILED_TO_RESIZE,
    POISONED,
    SUCCESS,
)
from gristmill.pipelines.stage import setting

Boxes = list[list[float]]
"""[left, top, right, bottom] of the upright picture, each 0..1."""
OUT_OF_MEMORY = "out of memory"
NO_HEIC = "no decoder for heic"
INTERPOLATIONS = (
    "nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4",
)  # fmt: skip
RESIZE_MODES = ("no", "keep_ratio", "center_crop", "border", "keep_ratio_largest")
_REDUCTIONS = (8, 4, 2)
_RESIZER_REASONS = _SMALL, _LARGE, _NARROW = (
    "image too small", "image area too large", "aspect ratio too large",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """What becomes of a picture; the names are img2dataset's where it has one."""

    # Which side is meant depends on `resize_mode`.
    image_size: int = setting(256, unit="pixels", low=1)
    # keep_ratio is about the smaller side, keep_ratio_largest about the larger.
    resize_mode: str = setting("keep_ratio_largest", choices=RESIZE_MODES)
    # Leave smaller pictures at their size.
    resize_only_if_bigger: bool = True
    # How pictures are made larger.
    upscale_interpolation: str = setting("lanczos", choices=INTERPOLATIONS)
    # How pictures are made smaller.
    downscale_interpolation: str = setting("area", choices=INTERPOLATIONS)
    # What pictures are stored as.
    encode_format: str = setting("jpg", choices=("jpg", "png", "webp"))
    # Of jpg and webp; of png it is the compression, 0..9.
    encode_quality: int = setting(95, low=0, high=100)
    # With reencode=never: "decode" decodes each picture once, small, to know that it does;
    # "structure" walks over its marks, chunks and sums alone, several times as fast: what cannot be
    # decoded in spite of them is dropped by the node that does. The column `verified` says which.
    verify: str = setting("decode", choices=("decode", "structure"), later=True)
    # Keep the bytes of a picture of this format that needs no resizing.
    skip_reencode: bool = False
    # With reencode=never: keep jpg, png and webp side by side; else others are brought into
    # `encode_format` at full size.
    mixed: bool = False
    # Turn pictures upright as their EXIF tag says, before resizing.
    orient: bool = True
    # Of the smaller side; 0: no limit.
    min_image_size: int = setting(0, unit="pixels", low=0)
    # Of the picture as received; 0: no limit.
    max_image_area: int = setting(0, unit="pixels", low=0)
    # Longer side by shorter side; 0: no limit.
    max_aspect_ratio: float = setting(0.0, low=0)
    # Read from the header before anything is decoded.
    max_pixels: int = setting(89_000_000, unit="pixels", low=1)


@dataclass(frozen=True, kw_only=True)
class ResizeSettings(Resizing):
    """What a decoding child does."""

    # Bytes are kept as they came, without metadata.
    pass_through: bool = False
    # JPEGs are decoded at a fraction of their size where that still covers the target.
    fast: bool = False
    # Pictures come with boxes that are blurred.
    blur: bool = False


@dataclass(frozen=True)
class ResizedImage:
    """A picture that is ready to be stored, or why there is none."""

    status: str
    error: str | None = None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    format: str | None = None
    orientation: int | None = None
    # "structure" or "decoded", where `verify` leaves the choice.
    verified: str | None = None


class PictureWorker:
    """Checks, decodes, turns, resizes and encodes pictures. Built in a child process."""

    def __init__(self, settings: ResizeSettings) -> None:
        self.settings = settings
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_pixels)
        import PIL.Image

        PIL.Image.MAX_IMAGE_PIXELS = None
        resizer = load_module("resizer")
        unlimited = float("inf")
        common = {
            "upscale_interpolation": settings.upscale_interpolation,
            "downscale_interpolation": settings.downscale_interpolation,
            "encode_format": settings.encode_format,
            "encode_quality": settings.encode_quality,
            "min_image_size": settings.min_image_size,
            "max_image_area": settings.max_image_area or unlimited,
            "max_aspect_ratio": settings.max_aspect_ratio or unlimited,
        }
        self._resizer = resizer.Resizer(
            settings.image_size,
            settings.resize_mode,
            settings.resize_only_if_bigger,
            skip_reencode=settings.skip_reencode,
            blurrer=load_module("blurrer").BoundingBoxBlurrer() if settings.blur else None,
            **common,
        )
        # For pass-through: another format is brought into the dataset's, at full size.
        self._encoder = resizer.Resizer(settings.image_size, "no", False, **common)

    def process(self, data: bytes, boxes: Boxes | None = None) -> ResizedImage:
        """Never raises for what the bytes are; crashes and hangs are the parent's to see.

        `boxes` are blurred, as img2dataset's blurrer does it.
        """
        try:
            return self._process(data, boxes)
        except MemoryError:
            return ResizedImage(POISONED, OUT_OF_MEMORY)

    def _process(self, data: bytes, boxes: Boxes | None) -> ResizedImage:
        refused = not_a_picture(data)
        if refused is not None:
            return refused
        header = read_header(data)
        orientation = 1
        if header is not None:
            orientation = header.orientation
            if header.width * header.height > self.settings.max_pixels:
                return ResizedImage(FAILED_TO_DECODE, "decompression bomb")
        elif format_of(data) == "heic":
            return ResizedImage(FAILED_TO_DECODE, NO_HEIC)
        if ends_early(data):
            return ResizedImage(FAILED_TO_DECODE, "truncated image")
        try:
            if self.settings.pass_through:
                return self._pass_through(data, header, orientation)
            return self._resize(data, header, orientation, boxes)
        except DecodeError as error:
            return ResizedImage(FAILED_TO_DECODE, str(error))

    def _resize(
        self,
        data: bytes,
        header: Header | None,
        orientation: int,
        boxes: Boxes | None,
    ) -> ResizedImage:
        turned = self.settings.orient and orientation != 1
        source, original = data, None
        if self.settings.fast and header is not None:
            reduced = self._reduced(data, header, orientation if turned else 1)
            if isinstance(reduced, ResizedImage):
                return reduced
            if reduced is not None:
                source, original = reduced
        if source is data:
            source = self._for_resizer(data, header, orientation if turned else 1)
        result = self._run(self._resizer, source, boxes)
        if result.status != SUCCESS:
            return result
        width, height = original or (result.original_width, result.original_height)
        stored = result.image or b""
        if self.settings.skip_reencode and stored == data:
            stored = strip_metadata(data) or stored
        return ResizedImage(
            SUCCESS,
            image=stored,
            width=result.width,
            height=result.height,
            original_width=width,
            original_height=height,
            format=format_of(stored) or self.settings.encode_format,
            orientation=orientation,
        )

    def _for_resizer(self, data: bytes, header: Header | None, orientation: int) -> bytes:
        """What the Resizer is to read: the bytes as they came, or the upright picture in sRGB."""
        pixels = srgb_pixels(data, header)
        if pixels is None and orientation != 1:
            pixels = decode_unchanged(data)
        return data if pixels is None else as_file(turn(pixels, orientation))

    def _run(self, resizer: Any, data: bytes, boxes: Boxes | None = None) -> ResizedImage:
        """img2dataset's Resizer, its error as a countable reason."""
        image, width, height, original_width, original_height, error = resizer(
            io.BytesIO(data), boxes
        )
        if error is None:
            return ResizedImage(
                SUCCESS, None, image, width, height, original_width, original_height
            )
        if error in _RESIZER_REASONS:
            return ResizedImage(FAILED_TO_RESIZE, error)
        if any(text in error for text in ("nsufficient memory", "to allocate", "MemoryError")):
            return ResizedImage(POISONED, OUT_OF_MEMORY)
        return ResizedImage(FAILED_TO_DECODE, "not decodable")

    def _reduced(
        self, data: bytes, header: Header, orientation: int
    ) -> tuple[bytes, tuple[int, int]] | ResizedImage | None:
        """A JPEG decoded at a half, a quarter or an eighth, whichever still covers the target."""
        import cv2
        import numpy as np

        width, height, mode = header.width, header.height, header.mode
        settings = self.settings
        if format_of(data) != "jpg" or mode not in ("RGB", "L"):
            return None
        if refused := _beyond_limits(settings, width, height):
            return refused
        by_smaller = settings.resize_mode in ("keep_ratio", "center_crop")
        side = (min if by_smaller else max)(width, height)
        if settings.resize_mode == "no":
            return None
        factor = next((f for f in _REDUCTIONS if side // f >= settings.image_size), None)
        if factor is None:
            return None
        kind = "GRAYSCALE" if mode == "L" else "COLOR"
        flags = getattr(cv2, f"IMREAD_REDUCED_{kind}_{factor}") | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None:
            return None
        if header.profile and changes_colours(header.profile, mode):
            pixels = apply_profile(np.asarray(pixels, np.uint8), header.profile)
        size = (height, width) if orientation >= 5 else (width, height)
        return as_file(turn(pixels, orientation)), size

    def _pass_through(self, data: bytes, header: Header | None, orientation: int) -> ResizedImage:
        """Bytes as they came, without metadata, after a look whether they decode. A profile that
        changes colours stays."""
        settings = self.settings
        walked = walk_picture(data) if settings.verify == "structure" else None
        size = decoded_size(data) if walked is None else (walked.width, walked.height)
        if size is None:
            return ResizedImage(FAILED_TO_DECODE, "not decodable")
        width, height = size
        if refused := _beyond_limits(settings, width, height):
            return refused
        kind = format_of(data)
        managed = header is not None and changes_colours(header.profile, header.mode)
        stored = strip_metadata(data, keep_profile=managed)
        if stored is None or not (settings.mixed or kind == settings.encode_format):
            result = self._run(self._encoder, self._for_resizer(data, header, 1))
            if result.status != SUCCESS:
                return result
            stored, kind, walked = result.image, settings.encode_format, None
        return ResizedImage(
            SUCCESS, None, stored, width, height, width, height, kind, orientation,
            "decoded" if walked is None else "structure",
        )  # fmt: skip


def walked_through(settings: ResizeSettings, data: bytes) -> ResizedImage | None:
    """What becomes of bytes that are passed through after a walk alone, without a decoder and so
    without a child; None for a picture that needs either."""
    walked, kind = walk_picture(data), format_of(data)
    if (
        walked is None
        or walked.has_profile
        or not (settings.mixed or kind == settings.encode_format)
    ):
        return None
    if walked.width * walked.height > settings.max_pixels:
        return ResizedImage(FAILED_TO_DECODE, "decompression bomb")
    if refused := _beyond_limits(settings, walked.width, walked.height):
        return refused
    stored = strip_metadata(data)
    if stored is None:
        return None
    size = (walked.width, walked.height)
    orientation = orientation_of(walked.exif)
    return ResizedImage(SUCCESS, None, stored, *size, *size, kind, orientation, "structure")


def quiet_worker(settings: ResizeSettings) -> PictureWorker:
    """A worker whose process writes nothing to the terminal: decoders complain about foreign bytes
    by themselves, and what matters comes back as a reason."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return PictureWorker(settings)


def load_module(module: str) -> Any:
    """A module of img2dataset alone: its package would load wandb and torch, for 8 seconds."""
    name = f"img2dataset_{module}"
    if name in sys.modules:
        return sys.modules[name]
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    package = importlib.util.find_spec("img2dataset")
    if package is None or not package.submodule_search_locations:
        raise ImportError("img2dataset is not installed")
    path = os.path.join(package.submodule_search_locations[0], f"{module}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(loaded)
    sys.modules[name] = loaded
    return loaded


def not_a_picture(data: bytes) -> ResizedImage | None:
    """Bytes that are plainly something else, by their beginning."""
    if not data:
        return ResizedImage(FAILED_TO_DOWNLOAD, "empty body")
    found = looks_like_text(data)
    if found is None:
        return None
    said = "svg is not a raster image" if found == "svg" else f"{found} instead of image"
    return ResizedImage(FAILED_TO_DECODE, said)


def _beyond_limits(settings: ResizeSettings, width: int, height: int) -> ResizedImage | None:
    """Why a picture of this size is not wanted, as img2dataset's Resizer would say it."""
    smaller, larger = sorted((width, height))
    if smaller < settings.min_image_size:
        return ResizedImage(FAILED_TO_RESIZE, _SMALL)
    if settings.max_image_area and width * height > settings.max_image_area:
        return ResizedImage(FAILED_TO_RESIZE, _LARGE)
    if settings.max_aspect_ratio and larger / smaller > settings.max_aspect_ratio:
        return ResizedImage(FAILED_TO_RESIZE, _NARROW)
    return None
