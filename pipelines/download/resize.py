"""Foreign bytes -> a checked, upright, resized, clean picture. Runs in supervised children only.

Resizing is img2dataset's own Resizer, so for the same settings the pixels are img2dataset's;
pictures with an EXIF orientation are the exception, ours are turned upright (`orient=False`
leaves them).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from gristmill.pipelines.download.strip_metadata import format_of, is_truncated, strip_metadata
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    FAILED_TO_RESIZE,
    POISONED,
    SUCCESS,
)

Boxes = list[list[float]]
"""[left, top, right, bottom] of the upright picture, each 0..1."""
OUT_OF_MEMORY = "out of memory"
_REDUCTIONS = (8, 4, 2)
_RESIZER_REASONS = ("image too small", "image area too large", "aspect ratio too large")


@dataclass(frozen=True, kw_only=True)
class ResizeSettings:
    """What becomes of a picture; the names are img2dataset's where it has one."""

    image_size: int = 256
    resize_mode: str = "keep_ratio_largest"
    resize_only_if_bigger: bool = True
    upscale_interpolation: str = "lanczos"
    downscale_interpolation: str = "area"
    encode_format: str = "jpg"
    encode_quality: int = 95
    skip_reencode: bool = False
    min_image_size: int = 0
    max_image_area: float = float("inf")
    max_aspect_ratio: float = float("inf")
    pass_through: bool = False
    mixed: bool = False
    orient: bool = True
    fast: bool = False
    # Pictures come with boxes that are blurred.
    blur: bool = False
    max_pixels: int = 89_000_000


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


class PictureWorker:
    """Checks, decodes, turns, resizes and encodes pictures. Built in a child process."""

    def __init__(self, settings: ResizeSettings) -> None:
        self.settings = settings
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_pixels)
        import PIL.Image

        PIL.Image.MAX_IMAGE_PIXELS = None
        resizer = load_module("resizer")
        common = {
            "upscale_interpolation": settings.upscale_interpolation,
            "downscale_interpolation": settings.downscale_interpolation,
            "encode_format": settings.encode_format,
            "encode_quality": settings.encode_quality,
            "min_image_size": settings.min_image_size,
            "max_image_area": settings.max_image_area,
            "max_aspect_ratio": settings.max_aspect_ratio,
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
        header = _read_header(data)
        orientation = 1
        if header is not None:
            width, height, orientation, _ = header
            if width * height > self.settings.max_pixels:
                return ResizedImage(FAILED_TO_DECODE, "decompression bomb")
        if _ends_early(data):
            return ResizedImage(FAILED_TO_DECODE, "truncated image")
        if self.settings.pass_through:
            return self._pass_through(data, orientation)
        return self._resize(data, header, orientation, boxes)

    def _resize(
        self,
        data: bytes,
        header: tuple[int, int, int, str] | None,
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
        if turned and source is data:
            source = _upright(data, orientation) or data
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
        self, data: bytes, header: tuple[int, int, int, str], orientation: int
    ) -> tuple[bytes, tuple[int, int]] | ResizedImage | None:
        """A JPEG decoded at a half, a quarter or an eighth, whichever still covers the target."""
        import cv2
        import numpy as np

        width, height, _, mode = header
        settings = self.settings
        if format_of(data) != "jpg" or mode not in ("RGB", "L"):
            return None
        smaller, larger = min(width, height), max(width, height)
        if smaller < settings.min_image_size:
            return ResizedImage(FAILED_TO_RESIZE, "image too small")
        if width * height > settings.max_image_area:
            return ResizedImage(FAILED_TO_RESIZE, "image area too large")
        if larger / smaller > settings.max_aspect_ratio:
            return ResizedImage(FAILED_TO_RESIZE, "aspect ratio too large")
        by_smaller = settings.resize_mode in ("keep_ratio", "center_crop")
        side = smaller if by_smaller else larger
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
        pixels = _turn(pixels, orientation)
        size = (height, width) if orientation >= 5 else (width, height)
        return cv2.imencode(".bmp", pixels)[1].tobytes(), size

    def _pass_through(self, data: bytes, orientation: int) -> ResizedImage:
        """Bytes as they came, without metadata, after a look whether they decode."""
        size = _decoded_size(data)
        if size is None:
            return ResizedImage(FAILED_TO_DECODE, "not decodable")
        width, height = size
        settings = self.settings
        if min(size) < settings.min_image_size:
            return ResizedImage(FAILED_TO_RESIZE, "image too small")
        if width * height > settings.max_image_area:
            return ResizedImage(FAILED_TO_RESIZE, "image area too large")
        if max(size) / min(size) > settings.max_aspect_ratio:
            return ResizedImage(FAILED_TO_RESIZE, "aspect ratio too large")
        kind = format_of(data)
        stored = strip_metadata(data)
        if stored is None or not (settings.mixed or kind == settings.encode_format):
            result = self._run(self._encoder, data)
            if result.status != SUCCESS:
                return result
            stored, kind = result.image, settings.encode_format
        return ResizedImage(SUCCESS, None, stored, width, height, width, height, kind, orientation)


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


def not_a_picture(data: bytes) -> ResizedImage | None:
    """Bytes that are plainly something else, by their beginning."""
    if not data:
        return ResizedImage(FAILED_TO_DOWNLOAD, "empty body")
    found = looks_like_text(data)
    if found is None:
        return None
    said = "svg is not a raster image" if found == "svg" else f"{found} instead of image"
    return ResizedImage(FAILED_TO_DECODE, said)


def _read_header(data: bytes) -> tuple[int, int, int, str] | None:
    """Width, height, EXIF orientation and mode, without decoding; None if Pillow cannot tell."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                mode = str(image.mode)
                orientation = _orientation(image)
        except MemoryError:
            raise
        except Exception:
            return None
    return width, height, orientation if 1 <= orientation <= 8 else 1, mode


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


def _ends_early(data: bytes) -> bool:
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


def _decoded_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as decoded. JPEGs are decoded at an eighth: all bytes are read all the
    same."""
    import cv2
    import numpy as np

    header = _read_header(data)
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
        return header[0], header[1]
    return int(pixels.shape[1]), int(pixels.shape[0])


def _upright(data: bytes, orientation: int) -> bytes | None:
    """The picture turned as its EXIF tag says, as lossless PNG; None if it does not decode."""
    import cv2
    import numpy as np

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    fastest = [cv2.IMWRITE_PNG_COMPRESSION, 0]
    return bytes(cv2.imencode(".png", _turn(pixels, orientation), fastest)[1].tobytes())


def _turn(pixels: Any, orientation: int) -> Any:
    """Undo an EXIF orientation (TIFF 6.0, tag 274)."""
    import numpy as np

    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
