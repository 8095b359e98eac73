"""Counts over the columns that enter the first Keep node, part by part."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from gristmill.dags.reports.corpus import CorpusCounts, CorpusTable

ROWS = pa.table(
    {
        "caption_language": ["en", None, "de", "en", "en"],
        "caption_copies": pa.array([1, 2, 11, 1, 12], pa.int32()),
        "caption_group_rank": pa.array([0, 1, 0, 0, 2], pa.int32()),
        "caption_copy_rank": pa.array([0, 0, 1, 0, 0], pa.int32()),
        "semantic_similarity": pa.array([0.995, 0.2, 0.96, None, 0.9], pa.float32()),
        "semantic_cluster": pa.array([3, 3, 1, 3, None], pa.int32()),
        "other": [0] * 5,
    }
)
KEPT = np.array([True, False, True, True, False])


def counted(size: int) -> list[CorpusTable]:
    counts = CorpusCounts(ROWS.schema)
    assert "other" not in counts.columns
    for low in range(0, len(ROWS), size):
        counts.add(ROWS.slice(low, size).select(counts.columns), KEPT[low : low + size])
    return counts.tables()


def test_parts_add_up_to_the_whole() -> None:
    assert counted(5) == counted(2)
    languages, captions, meaning = counted(2)
    assert languages.rows == [("en", 3, 2), ("de", 1, 1), ("none", 1, 0)]
    assert [row[1:] for row in captions.rows] == [(3, 1), (2, 1), (2, 0)]
    assert [row[1:] for row in meaning.rows] == [(1, 1), (2, 2), (2, 2)]
    assert meaning.note == "3 clusters; the largest has 3 rows"


def test_a_run_without_such_columns_has_nothing_to_count() -> None:
    counts = CorpusCounts(pa.schema([("width", pa.int32())]))
    assert counts.columns == [] and counts.tables() == []
