"""ICC profiles of pictures: whether they change how colours look, and the colours that they mean.

Little CMS does the work (through Pillow). Foreign bytes: for supervised children only.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

Pixels = NDArray[np.uint8]
"""uint8, grey [height, width] or BGR [height, width, 3], as OpenCV has them."""
# Modes of Pillow whose one colour is a grey.
GREY = ("1", "L", "LA", "La", "I", "I;16", "F")
# Grey levels by which colours must change before a profile is worth another encoding: profiles that
# call themselves sRGB differ by one or two.
_SAME_LEVELS = 3
# Profiles of printers may have megabytes each.
_REMEMBERED = 32


def changes_colours(profile: bytes | None, mode: str) -> bool:
    """Whether a profile is sound, meant for pictures of this mode of Pillow's, and takes some
    colour elsewhere than sRGB would."""
    if not profile:
        return False
    if mode == "CMYK":
        return transform_of(profile, "CMYK") is not None
    return _differs(profile, "L" if mode in GREY else "RGB")


@functools.lru_cache(_REMEMBERED)
def _differs(profile: bytes, mode: str) -> bool:
    import PIL.Image

    transform = transform_of(profile, mode)
    if transform is None:
        return False
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    colours: NDArray[np.uint8] = cube.reshape(27, 27, 3)
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8).reshape(16, 16)
    seen = np.asarray(transform.apply(PIL.Image.fromarray(colours))).astype(int)
    meant = colours if mode == "RGB" else np.dstack([colours] * 3)
    return int(np.abs(seen - meant).max()) > _SAME_LEVELS


@functools.lru_cache(_REMEMBERED)
def transform_of(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """Little CMS' transform of a mode (L, RGB, CMYK) into sRGB; None for a profile that is broken
    or of another colour space."""
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def apply_profile(pixels: Pixels, profile: bytes) -> Pixels:
    """The colours that a profile means, in sRGB; grey stays grey."""
    import PIL.Image

    transform = transform_of(profile, "RGB") if pixels.ndim == 3 else None
    if transform is not None:
        shown = PIL.Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
        return np.ascontiguousarray(np.asarray(transform.apply(shown))[..., ::-1])
    transform = transform_of(profile, "L")
    if transform is None:
        return pixels
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    seen = transform.apply(PIL.Image.fromarray(np.asarray(grey, np.uint8)))
    return np.ascontiguousarray(np.asarray(seen)[..., 1])
