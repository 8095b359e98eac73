"""Small pictures of rows for a report."""

from __future__ import annotations

import base64

import numpy as np

from gristmill.dags.reports.thumbnails import thumbnail_uri
from gristmill.pipelines.decode import decode_rgb, encode_jpeg


def jpeg(height: int, width: int, grey: int = 90) -> bytes:
    return encode_jpeg(np.full((height, width, 3), grey, np.uint8), 90)


def shape(uri: str) -> tuple[int, ...]:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return decode_rgb(base64.b64decode(data)).shape


def test_a_picture_is_made_smaller_never_larger() -> None:
    assert shape(thumbnail_uri([jpeg(400, 800)])) == (80, 160, 3)
    assert shape(thumbnail_uri([jpeg(20, 30)])) == (20, 30, 3)


def test_pictures_of_a_document_lie_side_by_side_four_at_most() -> None:
    assert shape(thumbnail_uri([jpeg(200, 200)] * 2)) == (100, 204, 3)
    assert shape(thumbnail_uri([jpeg(200, 200)] * 9)) == (204, 204, 3)


def test_what_does_not_decode_shows_nothing() -> None:
    assert thumbnail_uri([b"no picture", b""]) == "" and thumbnail_uri([]) == ""
