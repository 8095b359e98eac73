"""Commit records: old ones are read, the names in stored JSON stay."""

from __future__ import annotations

import json

from gristmill.dags.engine.records import FileRecord, Record, load_record

ROWS: FileRecord = {"name": "000002-a.rows.parquet", "size": 7, "xxh3": "ab" * 16}
# As a run of the first version wrote it.
STORED = {
    "part": 2, "files": {"rows": ROWS}, "inputs": {"draw": "0f"}, "rows_in": 5, "rows_out": 6,
    "dropped": {"poisoned": 1}, "born": 3, "merged": 1, "halved": 2, "seconds": 0.5,
    "peak_rss_mb": 12.5,
}  # fmt: skip


def test_a_record_of_the_first_version_is_read_and_written_back_as_it_was() -> None:
    record = load_record(json.loads(json.dumps(STORED)))
    assert (record.rows_added, record.block_splits) == (3, 2)
    assert (record.part, record.files, record.inputs) == (2, {"rows": ROWS}, {"draw": "0f"})
    assert record.stored() == STORED


def test_what_a_record_leaves_out_is_nought() -> None:
    record = load_record({"part": 0, "files": {}})
    assert record == Record(part=0, files={})
    assert record.rows_in == record.rows_added == record.merged == record.block_splits == 0


def test_the_digest_is_of_contents_not_of_names() -> None:
    blobs: FileRecord = {"name": "b", "size": 1, "xxh3": "cd" * 16}
    one = Record(0, {"rows": ROWS, "blobs": blobs})
    renamed = Record(7, {"blobs": blobs, "rows": ROWS | {"name": "other"}})
    assert one.digest == renamed.digest
    changed = Record(0, {"rows": ROWS | {"xxh3": "ef" * 16}, "blobs": blobs})
    assert one.digest not in (changed.digest, Record(0, {"rows": ROWS}).digest)
