"""Rows as images: captions of one image are one image, told apart by 128-bit digests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def digests(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Hex digests as [n, 2] uint64 of their first 32 digits, big-endian so that order is kept."""
    texts = column.to_pylist()
    data = b"".join(bytes.fromhex(text[:32]) if text else bytes(16) for text in texts)
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def hex_digests(values: NDArray[np.uint64]) -> pa.Array:
    """The inverse: [n, 2] uint64 as texts of 32 hex digits."""
    data = values.astype(">u8").tobytes().hex()
    return pa.array([data[i : i + 32] for i in range(0, len(data), 32)], pa.string())


def distinct_images(
    image_ids: pa.ChunkedArray,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Images of rows in the order of their first row: digests [m, 2], that row [m], and the image
    of each row [n]."""
    ids = digests(image_ids)
    _, first, image = np.unique(ids, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows = first[order].astype(np.int64)
    return ids[rows], rows, rank[image.reshape(-1)].astype(np.int64)


def best_of_rows(
    table: pa.Table, prefer: Sequence[str], image: NDArray[np.int64], images: int
) -> NDArray[np.float64]:
    """[images, columns]: the best value of each preferred column over an image's rows."""
    best = np.full((images, len(prefer)), -np.inf)
    for i, name in enumerate(prefer):
        values = pc.fill_null(table[name].cast(pa.float64()), -np.inf).to_numpy()
        values = np.where(np.isnan(values), -np.inf, values)
        np.maximum.at(best[:, i], image, values)
    return best


def preference(ids: NDArray[np.uint64], preferred: NDArray[np.float64]) -> list[NDArray[np.number]]:
    """Keys for `np.lexsort`, the most important last: best `preferred` columns first, then the
    lowest digest, so that order depends on what things are and not on where they lie."""
    columns = [-preferred[:, i] for i in reversed(range(preferred.shape[1]))]
    return [ids[:, 1], ids[:, 0], *columns]


def received_area(images: pa.Table) -> NDArray[np.int64]:
    """Pixels [n] of images as they were received; 0 where that is not known."""
    sides = (
        pc.fill_null(images[name].cast(pa.int64()), 0)
        for name in ("original_width", "original_height")
    )
    return np.asarray(pc.multiply(*sides).to_numpy())
