"""uids are stable and never run together; columns are typed as the schema says."""

from __future__ import annotations

import pyarrow as pa
import pytest

from gristmill.pipelines.schema import (
    ROW,
    digest_fields,
    make_child_uid,
    make_image_id,
    make_uid,
    normalise_url,
    with_columns,
)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.COM/Path?Q=A#part", "http://example.com/Path?Q=A"),
        ("https://User:PW@HOST:8080/x", "https://User:PW@host:8080/x"),
        ("http://host?Q=/A", "http://host?Q=/A"),
        ("  http://host/a b ", "http://host/a b"),
        ("no url at all#x", "no url at all"),
        ("", ""),
    ],
)
def test_urls_differ_only_where_servers_do(url: str, normal: str) -> None:
    assert normalise_url(url) == normal and normalise_url(normal) == normal


def test_fields_never_run_together() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")]
    assert len({digest_fields(*fields) for fields in lists}) == len(lists)
    # Text that is no Unicode still has a digest.
    assert len(digest_fields("\ud800")) == 32


def test_an_image_is_what_its_captions_share() -> None:
    one, two = (make_uid("url", "http://a/1", text) for text in ("a dog", "a cat"))
    assert one != two and make_uid("url", "http://a/1", None) == make_uid("url", "http://a/1", "")
    assert make_image_id("url", "http://a/1") not in (one, two)
    assert make_image_id("path", "http://a/1") != make_image_id("url", "http://a/1")
    children = {make_child_uid(one, stage, n) for stage in ("clips", "cuts") for n in range(3)}
    assert len(children) == 6


def test_columns_are_set_in_place_or_added_with_their_type() -> None:
    table = pa.table({"uid": ["a", "b"], "width": pa.array([1, 2], pa.int32())})
    done = with_columns(table, {"width": [3, None], "error": ["x", None]}, ROW)
    assert done.column_names == ["uid", "width", "error"]
    assert done["width"].to_pylist() == [3, None] and done.schema.field("width").type == pa.int32()
    wide = with_columns(table, {"width": pa.array([7, 8], pa.int64())}, ROW)
    assert wide["width"].type == pa.int32() and table["width"].to_pylist() == [1, 2]
