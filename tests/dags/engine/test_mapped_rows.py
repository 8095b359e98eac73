"""The rows that a Map yields, as they are stored."""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa

from gristmill.dags.engine.mapped_rows import in_order, store_images


def test_rows_of_one_picture_share_its_place_and_know_its_digest() -> None:
    table = pa.table({"uid": ["a", "b", "c", "d"], "image": [b"12", b"12", None, b"3"]})
    blobs = io.BytesIO()
    stored = store_images(table, blobs).to_pydict()
    digests = [hashlib.sha256(data).hexdigest() for data in (b"12", b"12", b"3")]
    assert stored["blob_offset"] == [0, 0, None, 2] and stored["blob_size"] == [2, 2, None, 1]
    assert stored["stored_sha256"] == [*digests[:2], None, digests[2]]
    assert blobs.getvalue() == b"123"


def test_children_stand_where_their_origin_stood() -> None:
    table = pa.table({"uid": ["y", "b", "x"], "parent_uid": ["a", None, "a"]})
    assert in_order(table, {"a": 0, "b": 1})["uid"].to_pylist() == ["y", "x", "b"]
