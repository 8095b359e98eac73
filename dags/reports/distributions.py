"""Histograms of scores over a run of any size: columns go through files, never through memory.

Each column is laid down once as plain numbers, then read again a piece at a time: for the order
statistics that say where the histogram begins and ends, and for its bins. All of it is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Values of a column that are in memory at a time.
_PIECE = 500_000
_DIGIT_BITS = 16


class ColumnFiles:
    """Numeric columns of all rows, a file each of float32 or float64 below a local folder, and
    whether each row was kept."""

    def __init__(self, folder: str, schema: pa.Schema) -> None:
        """`schema`: the columns, each of a type that `number_type` knows."""
        self._kinds = {field.name: number_type(field.type) for field in schema}
        self._paths = {name: os.path.join(folder, f"{i}") for i, name in enumerate(schema.names)}
        self._kept = os.path.join(folder, "kept")

    def append(self, table: pa.Table, kept: NDArray[np.bool_]) -> None:
        """Add rows of a part; null becomes NaN."""
        for name, kind in self._kinds.items():
            values = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            with open(self._paths[name], "ab") as file:
                file.write(values.astype(kind).tobytes())
        with open(self._kept, "ab") as file:
            file.write(kept.tobytes())

    def values(self, name: str) -> Iterator[NDArray[np.floating]]:
        """A column, in pieces [n] of the type that it has."""
        kind = self._kinds[name]
        if not os.path.exists(self._paths[name]):
            return
        with open(self._paths[name], "rb") as file:
            while True:
                piece: NDArray[np.floating] = np.fromfile(file, kind, _PIECE)
                if not len(piece):
                    return
                yield piece

    def values_and_kept(
        self, name: str
    ) -> Iterator[tuple[NDArray[np.floating], NDArray[np.bool_]]]:
        """A column, and which of its rows were kept, in the same pieces."""
        with open(self._kept, "rb") as file:
            for piece in self.values(name):
                yield piece, np.fromfile(file, np.bool_, len(piece))


def number_type(kind: pa.DataType) -> type[np.float32] | type[np.float64]:
    """The float that holds every value of an Arrow type of numbers exactly."""
    return np.float32 if kind in (pa.float16(), pa.float32()) else np.float64


def order_statistics(
    pieces: Callable[[], Iterator[NDArray[np.floating]]], ranks: Sequence[int]
) -> list[float]:
    """The values that would stand at `ranks` if all pieces were sorted together, exactly.

    Radix selection: a pass over the pieces for each 16 bits of a value, which counts how many of
    the values that begin like one looked for go on with each digit. None of them may be NaN; the
    memory is 512 KiB a rank.
    """
    found = [_Sought(rank) for rank in ranks]
    bits = 0
    for shift_up in range(64 // _DIGIT_BITS):
        counts: dict[int, NDArray[np.int64]] = {}
        for piece in pieces():
            keys, bits = _sort_keys(piece)
            shift = np.uint64(bits - _DIGIT_BITS * (shift_up + 1))
            digits = (keys >> shift) & np.uint64(2**_DIGIT_BITS - 1)
            begins = keys >> (shift + np.uint64(_DIGIT_BITS)) if shift_up else np.zeros_like(keys)
            for begin in {sought.begin for sought in found}:
                of_these = np.bincount(
                    digits[begins == np.uint64(begin)].astype(np.int64), minlength=2**_DIGIT_BITS
                )
                counts[begin] = counts[begin] + of_these if begin in counts else of_these
        for sought in found:
            sought.go_on(counts[sought.begin])
        if bits == _DIGIT_BITS * (shift_up + 1):
            break
    return [_value_of(sought.begin, bits) for sought in found]


class _Sought:
    """A rank that is looked for: how its value begins, and its rank among those that do."""

    def __init__(self, rank: int) -> None:
        self.begin, self.rank = 0, rank

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """One digit more, given how many values have each."""
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, self.rank, side="right"))
        self.rank -= int(upto[digit - 1]) if digit else 0
        self.begin = self.begin << _DIGIT_BITS | digit


def _sort_keys(values: NDArray[np.floating]) -> tuple[NDArray[np.uint64], int]:
    """Whole numbers in the order of floats, and how many bits they have."""
    bits = values.dtype.itemsize * 8
    raw = values.view(np.dtype(f"u{values.dtype.itemsize}")).astype(np.uint64)
    top, full = np.uint64(1 << (bits - 1)), np.uint64((1 << bits) - 1)
    return np.where(raw & top, raw ^ full, raw | top), bits


def _value_of(key: int, bits: int) -> float:
    """The inverse for one key."""
    top, full = 1 << (bits - 1), (1 << bits) - 1
    raw = key ^ top if key & top else key ^ full
    size = bits // 8
    return float(np.frombuffer(raw.to_bytes(size, "little"), f"<f{size}")[0])


def histogram_edges(files: ColumnFiles, name: str, bins: int) -> tuple[NDArray[np.float64], int]:
    """Borders [bins + 1] of a column's histogram, and how many of its rows have no number; no
    borders if it has less than two different ones. A far tail is gathered in the last bin."""

    def there() -> Iterator[NDArray[np.floating]]:
        for piece in files.values(name):
            yield piece[np.isfinite(piece)]

    count = sum(len(piece) for piece in there())
    missing = sum(len(piece) for piece in files.values(name)) - count
    nothing = np.zeros(0)
    if count < 2:
        return nothing, missing
    places = [share * (count - 1) for share in (0.005, 0.995)]
    around = [rank for place in places for rank in (int(place), min(int(place) + 1, count - 1))]
    low, high, *near = order_statistics(there, [0, count - 1, *around])
    if low == high:
        return nothing, missing
    near_low, near_high = (
        float(np.quantile(near[2 * i : 2 * i + 2], place - int(place)))
        for i, place in enumerate(places)
    )
    width = near_high - near_low
    if width > 0 and high > near_high + width:
        high = near_high + width / 10
    if width > 0 and low < near_low - width:
        low = near_low - width / 10
    return np.linspace(low, high, bins + 1), missing


def count_bins(
    files: ColumnFiles, name: str, edges: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in each bin [bins], and those of them that were kept; what lies outside counts in the
    bin at its end, what is no number in none."""
    counts = np.zeros(len(edges) - 1, np.int64)
    of_kept = np.zeros(len(edges) - 1, np.int64)
    for piece, kept in files.values_and_kept(name):
        there = np.isfinite(piece)
        inside = np.clip(piece.astype(np.float64), edges[0], edges[-1])
        counts += np.histogram(inside[there], edges)[0]
        of_kept += np.histogram(inside[there & kept], edges)[0]
    return counts, of_kept
