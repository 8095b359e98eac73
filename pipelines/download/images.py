"""Download: fetch the bytes of each row, check, decode and resize them, once for each image."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.download.resize import (
    NO_HEIC,
    Boxes,
    ResizedImage,
    ResizeSettings,
    Resizing,
    quiet_worker,
    walked_through,
)
from gristmill.pipelines.download.transfer import TLS, TLS_FACTS, FetchAndDecode, Opened
from gristmill.pipelines.schema import ROW, ColumnFacts
from gristmill.pipelines.stage import fields_of, require_choice, setting

_OWN = pa.schema(
    [
        pa.field("format", pa.string()),
        pa.field("orientation", pa.int8()),
        pa.field("received_bytes", pa.int64()),
        pa.field("image", pa.binary()),
    ]
)
_REPLACED = ("status", "error", "sha256", "width", "height", "original_width", "original_height")
SCHEMA = pa.schema([*[ROW.field(name) for name in _REPLACED], *_OWN])
_VERIFIED = pa.field("verified", pa.string())
NO_BOXES = "no blur boxes"


@dataclass(frozen=True, kw_only=True)
class Download(Resizing, FetchAndDecode):
    """Fetch http(s) URLs (or read the pointers of rows that lie in their source) and resize.

    Every limit is a field. Rows that share an image are fetched once. EXIF and GPS are never
    stored; pictures become 8-bit sRGB, or keep the profile that changes their colours where they
    are passed through. One that crashes, hangs or fills its decoder ends as `poisoned`, alone.
    """

    # 2: what is no 8-bit sRGB is brought into it. 3: all forms of an opt-out are respected.
    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = (
        "img2dataset", "albumentations", "opencv-python-headless", "pillow",
    )  # fmt: skip

    # "always" resizes; "never" passes bytes through, without metadata, as they came.
    reencode: str = setting("always", choices=("always", "never"))
    # "exact": as img2dataset. "fast": JPEGs are decoded at 1/2, 1/4 or 1/8 where that still covers
    # the target: two to four times faster, pixels differ by a few grey levels (see benchmarks/).
    decode: str = setting("exact", choices=("exact", "fast"))
    # Column of the source with boxes to blur, faces for instance: lists of [left, top, right,
    # bottom], each 0..1 of the upright picture. A row without them fails; an empty list is none.
    blur_boxes: str = ""

    def writes(self) -> pa.Schema:
        """Status, sizes, digest and the picture."""
        own = SCHEMA.append(_VERIFIED) if self.verify == "structure" else SCHEMA
        return self.with_tls(own)

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        facts = {
            "orientation": ColumnFacts(
                "EXIF tag of what was received; 1: upright, or no tag.", low=1, high=8
            ),
            _VERIFIED.name: ColumnFacts(
                "How download looked at the picture: `decoded`, or its `structure` alone."
            ),
            TLS.name: TLS_FACTS,
        }
        return {name: fact for name, fact in facts.items() if name in self.writes().names}

    def is_retryable(self, status: str, error: str) -> bool:
        """Whether a failed row may succeed on another day, or with what it lacks installed."""
        return super().is_retryable(status, error) or error == NO_HEIC

    def reads(self) -> tuple[str, ...]:
        """The columns of a row."""
        base = super().reads()
        return (*base, "meta") if self.blur_boxes else base

    def check(self) -> None:
        """Validate the choices, as img2dataset's Resizer would, and the limits."""
        require_choice(self, "resize_mode")
        require_choice(self, "encode_format")
        require_choice(self, "reencode")
        require_choice(self, "decode")
        require_choice(self, "verify")
        if self.verify == "structure" and self.reencode != "never":
            raise ConfigurationError(
                "verify=structure is of pictures that are passed through; set reencode=never"
            )
        for name in ("upscale_interpolation", "downscale_interpolation"):
            require_choice(self, name)
        if self.blur_boxes and (self.reencode == "never" or self.skip_reencode):
            raise ConfigurationError(
                "blur_boxes changes pixels: it goes neither with reencode=never nor skip_reencode"
            )
        most = 9 if self.encode_format == "png" else 100
        if not 0 <= self.encode_quality <= most:
            raise ConfigurationError(
                f"encode_quality is {self.encode_quality}; for {self.encode_format} it lies "
                f"between 0 and {most}"
            )
        super().check()
        for name in ("image_size", "max_pixels"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be above 0")

    def resize_settings(self) -> ResizeSettings:
        """What the decoding children do."""
        return ResizeSettings(
            **fields_of(self, Resizing),
            pass_through=self.reencode == "never",
            fast=self.decode == "fast",
            blur=bool(self.blur_boxes),
        )

    def make_worker(self) -> Callable[[], object]:
        """Factory of what decodes, run in each child."""
        return functools.partial(quiet_worker, self.resize_settings())

    def open_here(self, data: bytes) -> ResizedImage | None:
        """What needs no more than a walk over its structure."""
        if self.verify != "structure":
            return None
        return walked_through(self.resize_settings(), data)

    def failure(self, status: str, error: str) -> ResizedImage:
        """No picture."""
        return ResizedImage(status, error)

    def extra(self, metas: list[str | None]) -> Boxes | None:
        """Boxes to blur."""
        if not self.blur_boxes:
            return None
        boxes = blur_boxes(metas, self.blur_boxes)
        if boxes is None:
            raise ValueError(NO_BOXES)
        return boxes

    def columns_of(self, opened: Opened) -> dict[str, object]:
        """Sizes and the picture."""
        assert isinstance(opened, ResizedImage)
        names = ("width", "height", "original_width", "original_height", "format", "orientation")
        values = {name: getattr(opened, name) for name in (*names, _VERIFIED.name)}
        return {**values, "image": opened.image}


def blur_boxes(metas: list[str | None], column: str) -> Boxes | None:
    """The boxes of all captions of one image; None if one of them has none that can be read."""
    found: Boxes = []
    for meta in metas:
        try:
            boxes = json.loads(meta or "{}")[column]
            boxes = json.loads(boxes) if isinstance(boxes, str) else boxes
            for box in boxes:
                left, top, right, bottom = (float(value) for value in box)
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    return None
                if [left, top, right, bottom] not in found:
                    found.append([left, top, right, bottom])
        except (KeyError, TypeError, ValueError):
            return None
    return found
