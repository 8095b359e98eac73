"""Pictures as sets of weighted visual words (Sivic & Zisserman 2003), and those that share most.

A picture's words are a row of unit length; what two rows have in common is their dot product. The
rows of a part are laid down once as an inverted index, from words to the pictures that have them,
so that a search touches only pictures that share a word with the one it is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.dedup.part_arrays import PartArrays

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Pictures whose candidates are looked for at a time.
_BLOCK = 500


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix by rows: row i has `values[ends[i - 1]:ends[i]]` at those `columns`."""

    columns: NDArray[np.int32]
    values: NDArray[np.float64]
    ends: NDArray[np.int64]
    width: int

    def matrix(self) -> csr_array:
        """The same as scipy's, [len(ends), width], over the same memory."""
        from scipy.sparse import csr_array

        pointer = np.concatenate([[0], self.ends])
        shape = (len(self.ends), self.width)
        return csr_array((self.values, self.columns, pointer), shape=shape)

    def turned(self) -> SparseRows:
        """Its transpose, by rows as well."""
        matrix = self.matrix().T.tocsr()
        ends = matrix.indptr[1:].astype(np.int64)
        return SparseRows(matrix.indices.astype(np.int32), matrix.data, ends, len(self.ends))

    def save(self, arrays: PartArrays, part: int) -> None:
        """Store it as three arrays of a part."""
        width = np.array([self.width], np.int64)
        arrays.save(part, columns=self.columns, values=self.values, ends=self.ends, width=width)

    @classmethod
    def load(cls, arrays: PartArrays, part: int) -> SparseRows:
        """What `save` stored, memory-mapped."""
        saved = arrays.all(part)
        return cls(saved["columns"], saved["values"], saved["ends"], int(saved["width"][0]))


def bags_of_words(words: NDArray[np.int32], weight: NDArray[np.float32]) -> SparseRows:
    """Pictures as rows of unit length over the words, [n, words]; of the words of their keypoints
    [n, keypoints], -1 where there is none, and the words' weights. A word of weight 0 is left
    out."""
    chosen: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    for row in words:
        there = np.unique(row[row >= 0])
        chosen.append(there[weight[there] > 0].astype(np.int32))
    lengths = np.array([len(row) for row in chosen[1:]], np.int64)
    ends = np.cumsum(lengths)
    columns = np.concatenate(chosen)
    values = weight[columns]
    squares = np.ones(len(lengths))
    filled = np.flatnonzero(lengths)
    if len(filled):
        starts = (ends - lengths)[filled]
        squares[filled] = np.add.reduceat((values**2).astype(np.float64), starts)
    return SparseRows(columns, values / np.repeat(np.sqrt(squares), lengths), ends, len(weight))


def likeliest(
    queries: SparseRows, inverted: Sequence[SparseRows], first: int, count: int
) -> Iterator[tuple[int, list[int]]]:
    """(picture, the `count` others that share most words with it, best first, then by number).

    `queries` are the pictures numbered from `first`; `inverted` are the parts' `bags_of_words`,
    turned, whose pictures are numbered on from part to part.
    """
    from scipy.sparse import hstack

    rows = queries.matrix()
    parts = [part.matrix() for part in inverted]
    for low in range(0, rows.shape[0], _BLOCK):
        block = rows[low : low + _BLOCK]
        scores = hstack([block @ part for part in parts], format="csr")
        for row in range(scores.shape[0]):
            image = first + low + row
            span = slice(scores.indptr[row], scores.indptr[row + 1])
            others, values = scores.indices[span], scores.data[span]
            order = np.lexsort((others, -values))[: count + 1]
            yield image, [int(other) for other in others[order] if other != image][:count]
