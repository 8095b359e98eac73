"""What a phase saves for those after it: arrays and tables, each with a sealed fact beside it, so
that what was changed meanwhile is not taken for what was saved."""

from __future__ import annotations

import os
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.dags.engine.checked import insist, read_checked, what_is_wrong
from gristmill.dags.engine.records import FileRecord
from gristmill.dags.engine.run_folder import parse_array
from gristmill.pipelines.patience import WrongBytesError
from gristmill.pipelines.sealed import read_sealed, write_sealed
from gristmill.pipelines.storage import Folder, read_parquet

# Memory-mapped files whose digest was found right by this process: path, time, digest.
_right: set[tuple[str, int, str]] = set()


def fact_name(name: str) -> str:
    """Where the fact about a saved file lies."""
    return f"{name}.json"


def write_fact(folder: Folder, file: FileRecord) -> None:
    """Say what was saved."""
    write_sealed(folder, fact_name(file["name"]), dict(file))


def _fact(folder: Folder, name: str) -> FileRecord | None:
    """What is known of a saved file; None if it is of a time before facts."""
    try:
        return cast(FileRecord, read_sealed(folder, fact_name(name)))
    except FileNotFoundError:
        return None


def load_saved_table(folder: Folder, name: str) -> pa.Table:
    """A saved table."""
    file = _fact(folder, name)
    if file is None:
        return insist(folder, name, lambda: folder.read_table(name))
    return read_parquet(pa.BufferReader(read_checked(folder, file)), None)


def load_saved_array(folder: Folder, name: str) -> NDArray[np.generic]:
    """A saved array: memory-mapped, and looked through once a process; one that lies elsewhere is
    read whole."""
    file = _fact(folder, name)
    path = folder.local_path(name)
    if path is None:
        data = read_checked(folder, file) if file else folder.read_bytes(name)
        return parse_array(data)

    def mapped() -> NDArray[np.generic]:
        seen = (path, os.stat(path).st_mtime_ns, file["xxh3"] if file else "")
        if file is not None and seen not in _right:
            problem = what_is_wrong(folder, file)
            if problem:
                raise WrongBytesError(problem)
            _right.add(seen)
        try:
            found: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise WrongBytesError(f"is no array: {error}") from error
        return found

    return insist(folder, name, mapped)
