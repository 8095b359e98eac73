"""Captions as sets of shingles (Broder 1997), their MinHash signatures, and exact similarity."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from gristmill.pipelines.captions.caption_facts import WORD

# Shingles that are compared at a time; a pair counts for as many as an ordinary one has at least.
_CHUNK = 8_000_000
_ORDINARY = 40


class Shingles:
    """Which shingles each caption has: numbers of shingles laid end to end, and where each caption
    ends."""

    def __init__(self, column: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        from scipy.sparse import csr_array

        pointer = np.concatenate([[0], ends])
        width = int(column.max()) + 1 if len(column) else 1
        ones = np.ones(len(column), np.int32)
        self._rows = csr_array((ones, np.asarray(column), pointer), shape=(len(ends), width))
        self._counts = np.diff(pointer)

    def jaccard(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Jaccard similarity of pairs of captions."""
        pieces = []
        # Captions may have any length.
        sizes = np.cumsum(self._counts[a] + self._counts[b] + _ORDINARY) // _CHUNK
        cuts = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(a)]
        for start, end in itertools.pairwise(cuts):
            left, right = a[start:end], b[start:end]
            common = self._rows[left].multiply(self._rows[right]).sum(axis=1)
            pieces.append(common / (self._counts[left] + self._counts[right] - common))
        return np.concatenate([np.zeros(0), *pieces])


def caption_words(caption: str | None) -> list[str] | None:
    """Words in lower case, compatibility forms folded; None for a caption without any."""
    if caption is None:
        return None
    return WORD.findall(unicodedata.normalize("NFKC", caption).casefold()) or None


def shingle_hashes(words: Sequence[str], size: int) -> NDArray[np.uint64]:
    """Distinct hashes of all runs of `size` words, the ends counted as words; ascending."""
    padded = ["", *words, ""] if size > 1 else list(words)
    runs = {" ".join(padded[i : i + size]) for i in range(max(1, len(padded) - size + 1))}
    hashes = [xxhash.xxh3_64_intdigest(run.encode("utf-8", "surrogatepass")) for run in runs]
    return np.unique(np.array(hashes, np.uint64))


def minhash(
    shingles: NDArray[np.uint64], ends: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.uint32]:
    """Signatures [texts, count] of shingles that are laid end to end."""
    import rensa

    if not len(ends):
        return np.zeros((0, count), np.uint32)
    offsets = np.concatenate([[0], ends]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, count, seed)
    return np.array(matrix.to_rows(), np.uint32)
