"""Clips of files whose frames are stored in another order than they are shown in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import pytest
from videos import encode, numbered, numbers_of, videos

from gristmill.pipelines.videos import split_clips
from gristmill.pipelines.videos.clip import Clip, Encoding
from gristmill.pipelines.videos.cut_video import _decode_times, copy_pieces, encode_pieces
from gristmill.pipelines.videos.split_clips import Clips
from gristmill.pipelines.videos.video import VideoError, open_video, play, play_from

# Containers that store no times of decoding (Matroska) or none of presentation (AVI).
REORDERED = [
    ("libx264", "matroska"), ("libx264", "avi"), ("mpeg4", "avi"), ("libx264", "mp4"),
    ("libx264", "mpegts"), ("mpeg4", "matroska"),
]  # fmt: skip
FRAMES = 60
# The stretch that a row names, so that nobody looks for shots in numbers.
WHOLE = '{"start": 0.0, "end": 2.4}'


def reordered(codec: str, form: str) -> bytes:
    """Numbered frames at 25 a second with two B-frames between others, a keyframe a second."""
    options = {"bf": "2", "g": "25", "b_strategy": "0"}
    return encode([numbered(i) for i in range(FRAMES)], codec=codec, form=form, **options)


@pytest.mark.parametrize(("codec", "form"), REORDERED)
def test_frames_are_played_and_cut_in_the_order_shown(codec: str, form: str) -> None:
    data = reordered(codec, form)
    with open_video(data) as container:
        frames = [(frame.index, round(frame.time * 25)) for frame in play(container)]
    assert frames == [(i, i) for i in range(FRAMES)]
    clips = list(encode_pieces(data, [(0.0, 1.0), (1.0, 2.4)], Encoding()))
    assert [numbers_of(clip.data) for clip in clips if clip] == [
        list(range(25)), list(range(25, FRAMES)),
    ]  # fmt: skip


@pytest.mark.parametrize(("codec", "form"), REORDERED)
def test_packets_are_copied_where_it_is_known_when_they_are_shown(codec: str, form: str) -> None:
    data = reordered(codec, form)
    spans = [(0.0, 1.1), (0.9, 2.4)]
    if form == "avi":
        with pytest.raises(VideoError):
            list(copy_pieces(data, spans))
        return
    for clip in copy_pieces(data, spans):
        assert clip is not None
        assert numbers_of(clip.data) == list(range(clip.piece.start, clip.piece.end))


def test_a_jump_in_a_file_that_counts_frames_is_none() -> None:
    data = encode([numbered(i) for i in range(130)], form="avi", bf="2", g="25")
    frame = next(frame for frame in play_from(data, 4.8) if frame.time >= 4.8)
    assert (frame.index, round(frame.time, 2)) == (120, 4.8)


class Packet:
    def __init__(self, pts: int, dts: int | None) -> None:
        self.pts, self.dts = pts, dts


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([(0, -2), (3, -1), (1, 0), (2, 1)], [-2, -1, 0, 1]),
        ([(0, None), (3, None), (1, 1), (2, 2)], [-1, 0, 1, 2]),
        ([(0, 0), (2, 1), (1, 1)], [-1, 0, 1]),
        ([(5, None), (6, None)], [5, 6]),
    ],
)
def test_times_of_decoding_rise_and_come_before_those_shown(
    told: list[tuple[int, int | None]], expected: list[int]
) -> None:
    packets = [Packet(*times) for times in told]
    assert _decode_times(packets) == expected
    assert all(dts <= packet.pts for packet, dts in zip(packets, expected, strict=True))


def test_a_clip_that_cannot_be_encoded_is_a_row_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(data: bytes, spans: Any, encoding: Encoding) -> Iterator[Clip | None]:
        for clip, span in zip(encode_pieces(data, spans, encoding), spans, strict=True):
            if span[0] == pytest.approx(0.8):
                raise av.error.ArgumentError(22, "Invalid argument")
            yield clip

    monkeypatch.setattr(split_clips, "encode_pieces", failing)
    table = videos(reordered("libx264", "mp4"), meta=[WHOLE])
    rows = Clips(min_s=0.1, max_s=0.8)(table).to_pylist()
    assert [(row["status"], row["error"]) for row in rows] == [
        ("success", None), ("failed_to_cut", "not encodable"), ("success", None),
    ]  # fmt: skip
    assert numbers_of(rows[2]["image"]) == list(range(40, FRAMES))


@pytest.mark.parametrize("form", ["matroska", "avi"])
def test_what_cannot_be_copied_is_encoded(form: str) -> None:
    table = videos(reordered("libx264", form), meta=[WHOLE])
    rows = Clips(cut="keyframe", min_s=0.1)(table).to_pylist()
    assert [row["status"] for row in rows] == ["success"]
    assert rows[0]["encoded"] == (form == "avi")
    assert numbers_of(rows[0]["image"]) == list(range(FRAMES))
