"""What looking at a row costs, and how the pictures of a row are told apart."""

from __future__ import annotations

import pyarrow as pa

from gristmill.pipelines.media import FILE, PICTURE, PICTURES, explode_pieces


def test_costs_are_bounded_from_what_is_known_beforehand() -> None:
    table = pa.table(
        {
            "width": pa.array([10, None, 40_000], pa.int32()),
            "height": pa.array([5, 3, 40_000], pa.int32()),
            "blob_size": pa.array([7, None, 9], pa.int64()),
            "image_sizes": pa.array([[3, 4], None, []], pa.list_(pa.int64())),
            "duration_s": pa.array([2.0, None, 0.5], pa.float32()),
        }
    )
    # More than 32 bits.
    assert PICTURE.cost(table) == [150, 0, 4_800_000_000]
    assert FILE.cost(table) == [7, 0, 9] and FILE.seconds(table) == [10.0, 0.0, 2.5]
    assert PICTURES.cost(table) == [70, 0, 0] and PICTURES.seconds(table) == [0.0] * 3
    bare = table.select(["blob_size"])
    assert PICTURE.cost(bare) == [0] * 3 and FILE.seconds(bare) == [0.0] * 3


def test_pieces_know_their_row() -> None:
    table = pa.table(
        {
            "part": pa.array([4, 5, 6], pa.int32()),
            "image_offsets": pa.array([[0, 10], None, [3]], pa.list_(pa.int64())),
            "image_sizes": pa.array([[10, 2], None, [1]], pa.list_(pa.int64())),
        }
    )
    owners, pieces = explode_pieces(table)
    assert owners == [0, 0, 2]
    assert pieces.to_pylist() == [
        {"part": 4, "blob_offset": 0, "blob_size": 10},
        {"part": 4, "blob_offset": 10, "blob_size": 2},
        {"part": 6, "blob_offset": 3, "blob_size": 1},
    ]
    assert explode_pieces(table.slice(0, 0))[1].num_rows == 0
