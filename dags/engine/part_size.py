"""How many rows make a part, where nobody said so: by the size of the source alone, so that a few
hundred pictures keep all cores busy and a billion rows make no million parts.

Neither the machine nor `--limit` has a say: the same source is cut alike everywhere, and a limited
run is the beginning of the whole one. A run keeps the size that it was begun with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.graph import Dag
from gristmill.errors import GristmillError
from gristmill.pipelines.stage import ManifestEntry
from gristmill.pipelines.storage import Folder

# So many parts, between these sizes; the larger is the source's to say.
PARTS = 64
_FEWEST_ROWS = 32
# From so many rows on, parts are larger: what is done once a part would weigh too much.
_VAST = 10**8
_VAST_ROWS = 50_000
# What a row takes where only the bytes of a source of ours are known: a picture in a tar.
_ROW_BYTES = 50_000
# Rows of a part of a user's source that does not say how many it has: its bytes tell nothing.
_UNKNOWN_ROWS = 1_000


def with_part_size(
    dag: Dag,
    folder: Folder,
    manifest: Sequence[ManifestEntry],
    estimate: Callable[[], int | None],
    most: int,
    *,
    of_users: bool = False,
) -> Dag:
    """`dag` with the rows of a part decided, for a run in `folder`. `estimate` tells about how many
    rows the source has, None if it cannot; `most` is the size of a part of a large source;
    `of_users`: whether the source comes from outside the package."""
    if dag.part_rows:
        return dag
    rows = _begun_with(folder)
    if not rows:
        count = estimate()
        if count is None and not of_users:
            count = sum(entry["size"] or 0 for entry in manifest) // _ROW_BYTES
        rows = min(_UNKNOWN_ROWS, most) if count is None else part_size(count, most)
    return dataclasses.replace(dag, part_rows=rows)


def part_size(rows: int, most: int) -> int:
    """Rows of a part of a source of so many."""
    if rows >= _VAST:
        return most * _VAST_ROWS // 10_000
    return min(max(math.ceil(rows / PARTS), _FEWEST_ROWS), most)


def _begun_with(folder: Folder) -> int:
    """Rows of a part of the run in a folder; 0 if there is none that says so."""
    try:
        return load_dag(folder.read_bytes("dag.yaml").decode()).part_rows
    except (FileNotFoundError, UnicodeDecodeError, GristmillError):
        return 0
