"""Frames that come as they like, as phones and recorded screens have them, and files that do not
say when theirs come."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from videos import encode, loudest, numbered, numbers_of, videos

from gristmill.pipelines.download.videos import DownloadVideo
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.videos.clip import Encoding
from gristmill.pipelines.videos.cut_video import copy_pieces, encode_pieces
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.split_clips import Clips
from gristmill.pipelines.videos.video import open_video, play, play_from, probe

# Fifty a second; nothing for two seconds; five a second; nothing again; about sixty a second.
TIMES = [
    *range(0, 400, 20), *range(2_400, 4_400, 200), *range(5_000, 5_480, 16),
]  # fmt: skip
KEYS = (0, 20, 25, 30, 45)
FORMS = [("libx264", "mp4"), ("libx264", "mov"), ("libx264", "matroska"), ("libx264", "mpegts"),
         ("libvpx-vp9", "webm"), ("mpeg4", "mp4")]  # fmt: skip
RATE = 16_000


def variable(codec: str, form: str, *, click_s: float | None = None) -> bytes:
    """Numbered frames at `TIMES`, with B-frames where the codec has any."""
    sound = None
    if click_s is not None:
        sound = np.zeros(6 * RATE, np.float32)
        sound[int(click_s * RATE)] = 0.9
    options = {"bf": "2", "b_strategy": "0", "forced_idr": "1"} if codec == "libx264" else {}
    frames = [numbered(i) for i in range(len(TIMES))]
    return encode(
        frames, codec=codec, form=form, times=TIMES, keys=KEYS, every=1_000, sound=sound,
        rate=RATE, **options,
    )  # fmt: skip


def shown(data: bytes) -> list[int]:
    """Milliseconds at which the frames of a file are shown."""
    with open_video(data) as container:
        return [round(1_000 * frame.time) for frame in play(container)]


def length(data: bytes) -> tuple[float, float]:
    """Seconds that a file begins at, and lasts, as it says."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base or 0)
        return float(stream.start_time or 0) * base, float(stream.duration or 0) * base


@pytest.mark.parametrize(("codec", "form"), FORMS)
def test_a_probe_says_how_many_frames_there_are_a_second_on_average(codec: str, form: str) -> None:
    facts = probe(variable(codec, form))
    assert facts.frames == len(TIMES) and not facts.fps_assumed
    # The last frame is shown for as long as the file says, which is a guess of its writer.
    assert 5.464 < facts.duration_s < 5.6
    assert facts.fps == pytest.approx(len(TIMES) / facts.duration_s, rel=0.005)


@pytest.mark.parametrize("cut", ["exact", "keyframe"])
@pytest.mark.parametrize(("codec", "form"), FORMS)
def test_clips_keep_the_times_of_their_frames(codec: str, form: str, cut: str) -> None:
    data = variable(codec, form)
    spans = [(2.4, 3.4), (3.4, 5.0), (5.0, 5.24)]
    clips = list(
        copy_pieces(data, spans) if cut == "keyframe" else encode_pieces(data, spans, Encoding())
    )
    for clip, (first, last), span in zip(clips, ((20, 25), (25, 30), (30, 45)), spans, strict=True):
        assert clip is not None and clip.encoded == (cut == "exact")
        assert numbers_of(clip.data) == list(range(first, last))
        assert (clip.piece.start, clip.piece.end, clip.frames) == (first, last, last - first)
        assert shown(clip.data) == [time - TIMES[first] for time in TIMES[first:last]]
        assert (clip.start_s, clip.end_s) == pytest.approx(span, abs=0.001)
        assert length(clip.data) == pytest.approx((0.0, span[1] - span[0]), abs=0.001)
        assert clip.fps == pytest.approx((last - first) / (span[1] - span[0]), rel=0.01)
        assert probe(clip.data).fps == pytest.approx(clip.fps, rel=0.01)


@pytest.mark.parametrize("cut", ["exact", "keyframe"])
@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_sound_stays_with_the_frames_that_it_was_heard_at(form: str, cut: str) -> None:
    data = variable("libx264", form, click_s=3.6)
    # mpegts has both begin later.
    click = loudest(data) - length(data)[0]
    spans = [(3.4, 5.0)]
    (clip,) = copy_pieces(data, spans) if cut == "keyframe" else encode_pieces(
        data, spans, Encoding()
    )  # fmt: skip
    assert clip is not None and clip.has_audio
    assert loudest(clip.data) == pytest.approx(click - 3.4, abs=0.002)


def test_a_clip_that_ends_while_nothing_changes_ends_when_it_is_to() -> None:
    data = variable("libx264", "mp4")
    first, second = encode_pieces(data, [(0.0, 1.0), (3.0, 9.0)], Encoding())
    assert first is not None and (first.start_s, first.end_s) == (0.0, 1.0)
    assert shown(first.data) == TIMES[:20] and length(first.data)[1] == pytest.approx(1.0)
    assert second is not None and second.end_s == pytest.approx(probe(data).duration_s, abs=0.001)
    (cut,) = encode_pieces(variable("libx264", "mp4")[: len(data)], [(2.4, 3.0)], Encoding())
    assert cut is not None and cut.end_s == 3.0


@pytest.mark.parametrize(("codec", "form"), FORMS)
def test_a_jump_knows_how_many_frames_it_leaves_out(codec: str, form: str) -> None:
    frames = [frame for frame in play_from(variable(codec, form), 5.1) if frame.time > 5.1]
    assert (frames[0].index, round(1_000 * frames[0].time)) == (37, TIMES[37])


def test_a_clip_of_a_clip_is_what_it_would_be_of_the_video() -> None:
    """Copied clips begin with frames that are decoded before they are shown."""
    data = variable("libx264", "mp4")
    (part,) = copy_pieces(data, [(2.4, 9.0)])
    assert part is not None
    span = [(1.0, 2.6)]
    for again in (copy_pieces(part.data, span), encode_pieces(part.data, span, Encoding())):
        (clip,) = again
        assert clip is not None and numbers_of(clip.data) == list(range(25, 30))
        assert (clip.start_s, clip.end_s) == pytest.approx((1.0, 2.6), abs=0.001)


def test_shots_and_clips_of_a_variable_rate_lie_where_they_are_seen() -> None:
    data = variable("libx264", "mp4")
    _, _, count, end = Shots().find(data, 11.0)
    assert count == len(TIMES) and end == pytest.approx(probe(data).duration_s, abs=0.001)
    table = videos(data, data, meta=['{"start": 2.4, "end": 5.0}', '{"start": 5.0, "end": 7.0}'])
    good, beyond = Clips(cut="keyframe", min_s=0.1)(table).to_pylist()
    assert (good["start_frame"], good["end_frame"], good["frames"]) == (20, 30, 10)
    assert (good["start_s"], good["end_s"]) == (2.4, 5.0)
    assert good["fps"] == pytest.approx(10 / 2.6, abs=0.01)
    assert beyond["error"] == "stretch ends beyond the video" and beyond["image"] is None


# -- streams without a container ----------------------------------------------------------------

SILENT = {"x265-params": "no-vui-timing-info=1"}
RAW = [("libx264", "h264", 30, {"bf": "2"}, False), ("libx264", "h264", 50, {}, False),
       ("libx265", "hevc", 24, {}, False), ("libx265", "hevc", 30, SILENT, True),
       ("mpeg4", "m4v", 30, {"bf": "2"}, False),
       ("mpeg2video", "mpeg2video", 30, {}, False)]  # fmt: skip


@pytest.mark.parametrize(("codec", "form", "fps", "options", "silent"), RAW)
def test_a_stream_without_a_container_is_read_and_cut(
    codec: str, form: str, fps: int, options: dict[str, str], silent: bool
) -> None:
    """At the rate that its stream says, else 25 a second."""
    data = encode([numbered(i) for i in range(90)], codec=codec, form=form, fps=fps, **options)
    rate = 25 if silent else fps
    facts = probe(data)
    assert (facts.fps, facts.fps_assumed, facts.frames) == (rate, silent, 90)
    assert facts.duration_s == pytest.approx(90 / rate, abs=0.001)
    for cut in ("exact", "keyframe"):
        table = videos(data, meta=['{"start": 0.5, "end": 1.5}'])
        assert table["decoded_s"][0].as_py() == pytest.approx(90 / rate, abs=0.001)
        (row,) = Clips(cut=cut, min_s=0.1)(table).to_pylist()
        first, last = -(-rate // 2), -(-rate * 3 // 2)
        assert numbers_of(row["image"]) == list(range(first, last)) and row["encoded"]
        assert (row["start_frame"], row["end_frame"], row["fps"]) == (first, last, rate)
        assert row["duration_s"] == pytest.approx((last - first) / rate, abs=0.001)
        assert length(row["image"]) == pytest.approx((0, (last - first) / rate), abs=0.001)


def test_streams_of_cameras_lie_in_folders(tmp_path: Path) -> None:
    for name, codec, form in (("a.h264", "libx264", "h264"), ("b.265", "libx265", "hevc")):
        frames = [numbered(i) for i in range(30)]
        (tmp_path / name).write_bytes(encode(frames, codec=codec, form=form, fps=30))
    source = Source(path=str(tmp_path), kind="video")
    table = pa.concat_tables(t for chunk in source.chunks() for t in source.read(chunk))
    rows: list[Any] = DownloadVideo()(table).to_pylist()
    assert [(row["error"], row["fps"], row["fps_assumed"], row["duration_s"]) for row in rows] == [
        (None, 30.0, False, 1.0)
    ] * 2


CONTAINERS = [("libx264", "mpegts"), ("libx264", "matroska"), ("libx264", "3gp"),
              ("libx264", "flv"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"),
              ("libvpx-vp9", "ivf")]  # fmt: skip


@pytest.mark.parametrize(("codec", "form"), CONTAINERS)
def test_facts_and_clips_of_every_container(codec: str, form: str) -> None:
    data = encode([numbered(i) for i in range(90)], codec=codec, form=form, fps=30, every=15)
    facts = probe(data)
    assert (facts.fps, facts.fps_assumed, facts.frames) == (30.0, False, 90)
    assert facts.duration_s == pytest.approx(3.0, abs=0.002)
    for cut in ("exact", "keyframe"):
        table = videos(data, meta=['{"start": 1.0, "end": 2.0}'])
        (row,) = Clips(cut=cut, min_s=0.1)(table).to_pylist()
        assert numbers_of(row["image"]) == list(range(30, 60)) and row["fps"] == 30.0
        assert length(row["image"]) == pytest.approx((0, 1.0), abs=0.003)
