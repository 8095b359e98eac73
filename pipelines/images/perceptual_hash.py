"""Fingerprints of pictures, for finding copies: a 64-bit perceptual hash, pixels, a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score

if TYPE_CHECKING:
    from cv2.typing import MatLike

THUMBNAIL_SIDE = 16
THUMBNAIL_BYTES = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3
_SIDE, _LOW, _DETAILED = 32, 8, 12


@dataclass(frozen=True, kw_only=True)
class PerceptualHash(Score):
    """pHash (Zauner 2010): 32x32 grey, 2-D DCT, the 8x8 lowest frequencies against their median.

    The first bit (the mean) is left out of the median, as it dwarfs the others.
    """

    media: ClassVar[Media | None] = PICTURE
    libraries: ClassVar[tuple[str, ...]] = ("opencv-python-headless", "xxhash")

    def writes(self) -> pa.Schema:
        """Hash, digest of the decoded pixels, and a 16x16 RGB thumbnail."""
        return pa.schema(
            [
                pa.field("phash", pa.uint64()),
                pa.field("pixel_hash", pa.string()),
                pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES)),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "phash": ColumnFacts("The hash, 64 bits; near pictures differ in few.", "bits"),
            "pixel_hash": ColumnFacts("xxh3-128 of size and RGB pixels, 32 hex digits."),
            "thumbnail": ColumnFacts("16x16x3 bytes, RGB, area-averaged."),
        }

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Hash each picture."""
        assert images is not None
        hashes = perceptual_hashes(images)
        pixel_hashes = [_pixel_hash(image) for image in images]
        thumbnails = [thumbnail(image).tobytes() for image in images]
        return pa.table([hashes, pixel_hashes, thumbnails], schema=self.writes())


def perceptual_hashes(images: Sequence[Image]) -> NDArray[np.uint64]:
    """64-bit pHash of each picture, [n] uint64; the first frequency is the highest bit."""
    if not images:
        return np.zeros(0, np.uint64)
    return hash_grey(np.stack([_grey(image) for image in images]))


def hash_grey(grey: NDArray[np.float64]) -> NDArray[np.uint64]:
    """64-bit pHash of grey pictures [n, 32, 32]."""
    basis = _dct_basis()
    low = (basis @ grey @ basis.T).reshape(len(grey), -1)
    # Rounded so that noise of the last bits does not decide a tie.
    low = low.round(4)
    return _bits(low, np.median(low[:, 1:], axis=1, keepdims=True))


def hash_details(grey: NDArray[np.float64]) -> NDArray[np.uint64]:
    """The same of the 64 frequencies that follow those of the pHash, from low to high, for grey
    pictures [n, 32, 32]."""
    basis = _dct_basis(_DETAILED)
    spectrum = (basis @ grey @ basis.T).round(4)
    rows, columns = np.mgrid[:_DETAILED, :_DETAILED]
    beyond = np.flatnonzero(np.maximum(rows, columns).reshape(-1) >= _LOW)
    order = np.argsort((rows**2 + columns**2).reshape(-1)[beyond], kind="stable")
    values = spectrum.reshape(len(grey), -1)[:, beyond[order][:64]]
    return _bits(values, np.median(values, axis=1, keepdims=True))


def _bits(values: NDArray[np.float64], border: NDArray[np.float64]) -> NDArray[np.uint64]:
    """[n, 64] against a border -> [n]; the first value is the highest bit."""
    weights = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)
    bits: NDArray[np.uint64] = ((values > border) * weights).sum(axis=1, dtype=np.uint64)
    return bits


def thumbnail(image: Image) -> Image:
    """16x16 RGB."""
    small: MatLike = cv2.resize(
        image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA
    )
    return np.ascontiguousarray(small, dtype=np.uint8)


def _grey(image: Image) -> NDArray[np.float64]:
    small: MatLike = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey: MatLike = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.float64)


def _dct_basis(count: int = _LOW) -> NDArray[np.float64]:
    """The lowest frequencies of the orthonormal DCT-II of length 32, [count, 32]."""
    k, n = np.arange(count)[:, None], np.arange(_SIDE)[None]
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float64)


def _pixel_hash(image: Image) -> str:
    digest = xxhash.xxh3_128(f"{image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
