"""Subset files, as DataComp publishes them: a .npy of uids, each as two uint64."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError


def read_subset(path: str) -> list[str]:
    """The uids of a subset file, as 32 hex digits each.

    Raises `ConfigurationError` for a file that is missing or holds something else.
    """
    if not os.path.exists(path):
        raise ConfigurationError(f"{path} does not exist; give a .npy of uids")
    try:
        halves = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ConfigurationError(f"{path} is no .npy of uids: {error}") from error
    if halves.dtype.names is None or [halves.dtype[i] for i in range(2)] != ["<u8", "<u8"]:
        raise ConfigurationError(
            f"{path} holds {halves.dtype}; a subset is an array of two uint64 for each uid, as "
            "DataComp and `gristmill keep --subset-out` write them"
        )
    high, low = (halves[name] for name in halves.dtype.names[:2])
    return [f"{a:016x}{b:016x}" for a, b in zip(high.tolist(), low.tolist(), strict=True)]


def subset_file(uids: Sequence[str]) -> NDArray[np.void]:
    """uids of 32 hex digits as DataComp's resharder wants them: sorted pairs of uint64."""
    pairs = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return np.array(sorted(pairs), np.dtype("u8,u8"))
