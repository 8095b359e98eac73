"""The bytes of a picture or a clip to pixels; whatever a decoder makes of them that is not pixels
is a fault of that sample."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import SampleError
from gristmill.pipelines.decode import Image, decode_rgb
from gristmill.pipelines.download.picture_bytes import ends_early, read_header, turn
from gristmill.pipelines.videos.frames import decode_clip

_T = TypeVar("_T")


class Spot(NamedTuple):
    """Where the pictures of a sample lie: all that one needs to know to read them."""

    shard: int
    row: int
    # Offset and size of each in the file of the shard, where no table of its own says so.
    parts: tuple[tuple[int, int], ...] = ()
    # Why there are none.
    fault: str = ""


def decode_picture(data: bytes) -> Image:
    """uint8 RGB [height, width, 3]. Raises `SampleError` for what is no whole picture."""
    if not data:
        raise SampleError("picture is empty")
    # A decoder may fill up with grey what is missing.
    if _decoded(lambda: ends_early(data), "picture does not decode"):
        raise SampleError("picture ends early")
    return _decoded(lambda: decode_upright(data), "picture does not decode")


def decode_upright(data: bytes) -> Image:
    """uint8 RGB [height, width, 3] as a viewer shows it: turned as EXIF says. Pictures of foreign
    tars and of users may lie on their side; stored ones of ours say nothing of it.

    Raises `DecodeError` for anything that is not a picture.
    """
    pixels, header = decode_rgb(data), read_header(data)
    upright: Image = pixels if header is None else turn(pixels, header.orientation)
    return upright


def decode_frame(data: bytes, number: int, frames: int) -> Image:
    """The middle of the `number`-th of `frames` equal pieces of a clip. Raises `SampleError`."""
    moments = _decoded(lambda: _moments(bytes(data)), "clip does not decode")
    if not len(moments):
        raise SampleError("clip has no frame")
    picture: Image = moments[int((number + 0.5) * len(moments) / frames)]
    return picture


@functools.lru_cache(maxsize=1)
def _moments(data: bytes) -> NDArray[np.uint8]:
    """Frames of a clip, spread over it; of the one that was asked for last they are kept, as
    documents want one after the other."""
    return decode_clip(data).frames


def _decoded(decode: Callable[[], _T], reason: str) -> _T:
    try:
        return decode()
    except MemoryError:
        raise
    except Exception as error:
        # Decoders have errors of their own, one each.
        raise SampleError(reason) from error
