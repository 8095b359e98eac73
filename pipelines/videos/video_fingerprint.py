"""Fingerprints of clips: perceptual hashes of a frame eight times a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipelines.images.perceptual_hash import hash_details, hash_grey
from gristmill.pipelines.media import Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score
from gristmill.pipelines.videos.frames import CLIP

# A frame with less contrast than this (grey levels) has no hash: noise alone would decide it.
_LEAST_CONTRAST = 6.0


@dataclass(frozen=True, kw_only=True)
class ClipSignature(Score):
    """64-bit pHash of a frame every eighth of a second (further apart in clips beyond 20 s), and 64
    bits more of the next finer frequencies: what lies in the same place in many frames of the world
    decides the coarse ones alone. Grey, without borders, so that size, colour, codec and a logo
    hardly matter.
    """

    media: ClassVar[Media | None] = CLIP
    libraries: ClassVar[tuple[str, ...]] = ("av", "opencv-python-headless")

    def writes(self) -> pa.Schema:
        """Hashes in time; 0 for a frame that shows nothing."""
        names = ("frame_hashes", "frame_details")
        return pa.schema([pa.field(name, pa.list_(pa.uint64())) for name in names])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "frame_hashes": ColumnFacts(
                "Hash of each moment, 64 coarse bits; 0 for a frame that shows nothing."
            ),
            "frame_details": ColumnFacts(
                "Hash of each moment, 64 finer bits; 0 for a frame that shows nothing."
            ),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Hash the frames of each clip."""
        assert images is not None
        found = [frame_hashes(clip.signature) for clip in images]
        columns = [[pair[0] for pair in found], [pair[1] for pair in found]]
        return pa.table(columns, schema=self.writes())


def frame_hashes(
    signature: NDArray[np.float32],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Coarse and fine hashes [m] of grey frames [m, 32, 32]."""
    grey = signature.astype(np.float64)
    coarse, fine = hash_grey(grey), hash_details(grey)
    empty = signature.std(axis=(1, 2)) < _LEAST_CONTRAST
    coarse[empty], fine[empty] = 0, 0
    return coarse, fine
