"""What documents are made of: texts and pictures in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.model.documents.picture_grid import PictureGrid


@dataclass(frozen=True)
class TextSegment:
    """A special token, then a text; a target of the loss or only given."""

    text: str
    is_target: bool = False
    special_token: int | None = None
    # Whether the document may end here.
    ends: bool = False
    # The text as ids, where it was encoded with what stands beside it; else it is encoded alone.
    ids: tuple[int, ...] | None = None
    # Whether it says itself how a document begins: no start mark comes before it.
    begins: bool = False


@dataclass(frozen=True)
class ImageSegment:
    """One of the document's pictures, by number; drawn (a target of the loss) or only seen."""

    number: int = 0
    is_target: bool = False


Segment = TextSegment | ImageSegment


@dataclass
class Content:
    """What is known of one picture; a paradigm needs some of these. With `pixels`, codes or latents
    are made of them later, in the step."""

    # Of a picture that is still to be drawn all that is known.
    grid: PictureGrid
    codes: NDArray[np.int64] | None = None  # [h, w, codebooks]
    latents: NDArray[np.float32] | None = None  # [h, w, channels]
    # [h, w, values]: uint8 pixels of each patch, or float32 features.
    semantic: NDArray[np.generic] | None = None
    pixels: NDArray[np.uint8] | None = None  # [height, width, 3]
