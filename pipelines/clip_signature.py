"""Fingerprints of clips: a perceptual hash of a frame eight times a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipelines.clip_frames import CLIP
from gristmill.pipelines.media import Media
from gristmill.pipelines.perceptual_hash import hash_grey
from gristmill.pipelines.stage import Score

# A frame with less contrast than this (grey levels) has no hash: noise alone would decide it.
_LEAST_CONTRAST = 6.0


@dataclass(frozen=True, kw_only=True)
class ClipSignature(Score):
    """64-bit pHash of a frame every eighth of a second (further apart in clips beyond 20 s), grey,
    so that size, colour, codec and a small logo hardly matter."""

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", "opencv-python-headless")

    def writes(self) -> pa.Schema:
        """Hashes in time; 0 for a frame that shows nothing."""
        return pa.schema([pa.field("frame_hashes", pa.list_(pa.uint64()))])

    def score(self, table: pa.Table, images: Sequence[Any] | None) -> pa.Table:
        """Hash the frames of each clip."""
        assert images is not None
        return pa.table([[frame_hashes(clip.signature) for clip in images]], schema=self.writes())


def frame_hashes(signature: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hashes [m] of grey frames [m, 32, 32]."""
    hashes = hash_grey(signature.astype(np.float64))
    hashes[signature.std(axis=(1, 2)) < _LEAST_CONTRAST] = 0
    return hashes
