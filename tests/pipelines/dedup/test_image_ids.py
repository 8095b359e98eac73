"""Rows as images, told apart by digests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from gristmill.pipelines.dedup.image_ids import (
    best_of_rows,
    digests,
    distinct_images,
    hex_digests,
    preference,
    received_area,
)

A, B = "0" * 31 + "1", "f" * 32


def test_digests_keep_their_order_and_come_back() -> None:
    values = digests(pa.chunked_array([[B, A, None]]))
    assert hex_digests(values[:2]).to_pylist() == [B, A]
    assert values[1].tolist() == [0, 1] and not values[2].any()


def test_captions_of_one_image_are_one() -> None:
    ids, rows, image = distinct_images(pa.chunked_array([[B, A, B]]))
    assert hex_digests(ids).to_pylist() == [B, A]
    assert rows.tolist() == [0, 1] and image.tolist() == [0, 1, 0]


def test_the_best_row_speaks_for_its_image_and_no_number_is_the_worst() -> None:
    table = pa.table({"score": pa.array([0.1, float("nan"), 0.3, None])})
    best = best_of_rows(table, ["score"], np.array([0, 1, 0, 1]), 2)
    assert best.tolist() == [[0.3], [-np.inf]]


def test_preference_is_score_then_digest() -> None:
    ids = np.array([[0, 2], [0, 1], [0, 0]], np.uint64)
    order = np.lexsort(preference(ids, np.array([[0.5], [0.5], [0.1]])))
    assert order.tolist() == [1, 0, 2]


def test_area_is_of_what_was_received() -> None:
    sides = {"original_width": pa.array([3, None], pa.int32()),
             "original_height": pa.array([70_000, 5], pa.int32())}  # fmt: skip
    assert received_area(pa.table(sides)).tolist() == [210_000, 0]
