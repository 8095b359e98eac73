"""Videos: what is opened, where shots are cut, that clips hold exactly the frames they say."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import serving
from videos import encode, loudest, numbered, numbers_of, videos

from gristmill.dags.engine.mapped_rows import store_images
from gristmill.errors import ConfigurationError
from gristmill.pipelines.download.videos import DownloadVideo
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.values import seconds
from gristmill.pipelines.videos.clip import Encoding
from gristmill.pipelines.videos.clip_facts import ClipFacts
from gristmill.pipelines.videos.cut_video import copy_pieces, encode_pieces
from gristmill.pipelines.videos.frames import decode_clip, moments_of
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.split_clips import Clips, segment_of
from gristmill.pipelines.videos.video import VideoError, probe


def noise(seed: int, side: int = 96) -> Any:
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 220, (7, 7, 3), np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def shifted(seed: int, count: int, step: int, side: int = 96) -> list[Any]:
    """A camera that pans over a still ground."""
    wide = noise(seed, side + step * count)
    return [np.ascontiguousarray(wide[:side, i * step : i * step + side]) for i in range(count)]


# -- what is opened -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "form"), [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")]
)
def test_a_probe_says_what_a_file_is(codec: str, form: str) -> None:
    facts = probe(encode([numbered(i) for i in range(30)], codec=codec, form=form))
    assert (facts.width, facts.height, facts.frames) == (64, 64, 30)
    assert facts.fps == pytest.approx(25, abs=0.1)
    assert facts.duration_s == pytest.approx(1.2, abs=0.05)
    assert not facts.has_audio and not facts.hdr and facts.rotation == 0


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    whole = encode([numbered(i) for i in range(30)])
    cases = {
        b"plain text": "not a video",
        b"": "not a video",
        whole[:200]: "not a video",
        cv2.imencode(".jpg", noise(0))[1].tobytes(): "not a video",
        encode([numbered(1)]): "still image",
        whole.replace(b"avc1", b"zzzz"): "no decoder for its codec",
    }
    for data, reason in cases.items():
        with pytest.raises(VideoError, match=reason):
            probe(data)


def test_sound_of_an_unknown_codec_is_none() -> None:
    silence = np.zeros(16_000, np.float32)
    whole = encode([numbered(i) for i in range(30)], form="matroska", sound=silence)
    unknown = whole.replace(b"A_AAC", b"A_XYZ")
    assert unknown != whole
    (clip,) = encode_pieces(unknown, [(0.0, 1.2)], Encoding())
    assert clip is not None and not clip.has_audio and len(numbers_of(clip.data)) == 30


def test_playlists_are_never_followed(tmp_path: Path) -> None:
    """A file that names other files would have the library read them."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode([numbered(i) for i in range(30)]))
    with serving() as server:
        server.pages["/canary.mp4"] = secret.read_bytes()
        for target in (f"file://{secret}", str(secret), server.url("/canary.mp4")):
            for playlist in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
            ):
                with pytest.raises(VideoError, match="not a video"):
                    probe(playlist.encode())
        assert server.hits == []


def test_download_names_what_is_wrong_and_keeps_what_is_right() -> None:
    good = encode([numbered(i) for i in range(30)])
    with serving() as server:
        server.pages |= {
            "/good.mp4": good,
            "/login.mp4": b"<!doctype html><html>please log in</html>",
            "/still.mp4": encode([numbered(0)]),
            "/noise.mp4": b"\0" * 500,
        }
        rows = RowBuilder("test", "video")
        for path in ("/good.mp4", "/login.mp4", "/still.mp4", "/noise.mp4", "/none.mp4"):
            rows.add(url_row(server.url(path)))
        table = next(rows.take(all_rows=True))
        done = DownloadVideo(allow_hosts=(server.host,), retries=0, min_side=32)(table)
        small = DownloadVideo(allow_hosts=(server.host,), retries=0, min_side=100)(table)
    found = dict(zip(done["url"].to_pylist(), done.to_pylist(), strict=True))
    errors = {url.rpartition("/")[2]: row["error"] for url, row in found.items()}
    assert errors == {
        "good.mp4": None,
        "login.mp4": "html instead of video",
        "still.mp4": "still image",
        "noise.mp4": "not a video",
        "none.mp4": "http 404",
    }
    row = found[server.url("/good.mp4")]
    assert row["image"] == good and row["codec"] == "h264" and row["frames"] == 30
    assert "frame too small" in small["error"].to_pylist()


def test_a_file_that_kills_its_reader_is_poisoned_alone(monkeypatch: Any) -> None:
    class Deadly(DownloadVideo):
        def make_worker(self) -> Any:
            return _deadly

    good = encode([numbered(i) for i in range(10)])
    with serving() as server:
        server.pages |= {"/a": good, "/b": b"die" + good}
        rows = RowBuilder("test", "video")
        rows.add(url_row(server.url("/a")))
        rows.add(url_row(server.url("/b")))
        table = next(rows.take(all_rows=True))
        done = Deadly(allow_hosts=(server.host,), retries=0)(table)
    assert dict(zip(done["url"].to_pylist(), done["status"].to_pylist(), strict=True)) == {
        server.url("/a"): "success",
        server.url("/b"): "poisoned",
    }


class _DeadlyProber:
    def process(self, data: bytes, extra: Any) -> Any:
        import os

        from gristmill.pipelines.download.videos import VideoProber

        if data.startswith(b"die"):
            os._exit(3)
        return VideoProber(10**9, 0, 0.0, 0.0).process(data)


def _deadly() -> _DeadlyProber:
    return _DeadlyProber()


# -- shots --------------------------------------------------------------------------------------


def test_hard_cuts_are_found_to_the_frame_and_fades_in_their_middle() -> None:
    shots = [shifted(seed, 30, 2) for seed in range(4)]
    hard = encode([frame for shot in shots for frame in shot])
    assert Shots().find(hard, 25.0)[0] == [30, 60, 90]
    assert Shots(detector="content").find(hard, 25.0)[0] == [30, 60, 90]
    frames = list(shots[0])
    frames += [np.asarray(shots[0][-1] * share, np.uint8) for share in (0.7, 0.4, 0.15)]
    middle = len(frames) + 3
    frames += [np.zeros_like(shots[0][0])] * 6
    frames += [np.asarray(shots[1][0] * share, np.uint8) for share in (0.15, 0.4, 0.7)]
    frames += shots[1]
    (cut,), (time,), count, end = Shots().find(encode(frames), 25.0)
    assert abs(cut - middle) <= 1 and time == pytest.approx(cut / 25)
    assert count == len(frames) and end == pytest.approx(len(frames) / 25, abs=0.01)
    dark = encode([np.zeros_like(shots[0][0])] * 50 + shots[0])
    assert Shots().find(dark, 25.0)[0] == [50], "what stays dark is a shot, and ends with the dark"


def test_what_does_not_decode_ends_the_video_early() -> None:
    whole = encode([numbered(i, 1) for i in range(100)], codec="mpeg4", form="avi", every=5)
    cuts, _, count, end = Shots().find(whole[: len(whole) // 2], 25.0)
    assert cuts == [] and 10 < count < 100 and end == pytest.approx(count / 25, abs=0.05)


# -- clips --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "form"), [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")]
)
def test_clips_hold_exactly_the_frames_they_say(codec: str, form: str) -> None:
    data = encode([numbered(i) for i in range(100)], codec=codec, form=form)
    spans = [(0.0, 0.68), (0.68, 2.0), (2.4, 4.0)]
    clips = list(encode_pieces(data, spans, Encoding()))
    expected = [range(0, 17), range(17, 50), range(60, 100)]
    for clip, frames, span in zip(clips, expected, spans, strict=True):
        assert clip is not None
        assert numbers_of(clip.data) == list(frames)
        assert (clip.piece.start, clip.piece.end) == (frames.start, frames.stop)
        assert clip.start_s == pytest.approx(span[0], abs=0.002)
        assert probe(clip.data).duration_s == pytest.approx(span[1] - span[0], abs=0.01)


@pytest.mark.parametrize("form", ["mp4", "avi", "matroska", "mpegts"])
def test_what_lies_far_before_is_jumped_over_to_the_frame(form: str) -> None:
    codec = "mpeg4" if form == "avi" else "libx264"
    data = encode([numbered(i) for i in range(250)], codec=codec, form=form, every=20)
    clip, last = encode_pieces(data, [(6.52, 7.2), (9.0, 99.0)], Encoding())
    assert clip is not None and last is not None
    assert numbers_of(clip.data) == list(range(163, 180))
    assert (clip.piece.start, clip.piece.end) == (163, 180)
    assert numbers_of(last.data) == list(range(225, 250))


def test_sound_is_cut_at_the_same_moment() -> None:
    """A click at the first frame of the second clip, and one inside it."""
    rate, fps = 16_000, 25
    sound = np.zeros(4 * rate, np.float32)
    sound[int(1.6 * rate)] = 0.9
    data = encode([numbered(i) for i in range(100)], fps=fps, sound=sound, rate=rate)
    first, second = list(encode_pieces(data, [(0.0, 1.0), (1.0, 3.0)], Encoding()))
    assert first is not None and second is not None and second.has_audio
    assert loudest(second.data) == pytest.approx(0.6, abs=0.005)
    assert not next(encode_pieces(data, [(0.0, 1.0)], Encoding(audio=False))).has_audio  # type: ignore[union-attr]
    copied = next(iter(copy_pieces(data, [(0.0, 4.0)])))
    assert copied is not None and loudest(copied.data) == pytest.approx(1.6, abs=0.005)


def test_packets_are_copied_from_keyframe_to_keyframe() -> None:
    data = encode([numbered(i) for i in range(100)], every=10)
    first, second, none = copy_pieces(data, [(0.0, 1.3), (1.3, 4.0), (1.32, 1.5)])
    assert first is not None and second is not None and none is None
    assert numbers_of(first.data) == list(range(30))
    assert numbers_of(second.data) == list(range(40, 100))
    assert not first.encoded and first.piece.end == 30


def test_every_shot_comes_out_cut_short_or_named() -> None:
    lengths = [30, 14, 80]
    frames = [frame for i, n in enumerate(lengths) for frame in shifted(i, n, 1)]
    table = videos(encode(frames))
    clips = Clips(min_s=1.0, max_s=2.0, short_side=48)(table)
    rows = clips.select(["shot", "shot_part", "status", "error", "start_s", "end_s", "frames",
                         "width", "height", "parent_uid"]).to_pylist()  # fmt: skip
    assert [(row["shot"], row["shot_part"], row["error"]) for row in rows] == [
        (0, 0, None), (1, 0, "shot too short"), (2, 0, None), (2, 1, None),
    ]  # fmt: skip
    assert [row["frames"] for row in rows] == [30, None, 40, 40]
    assert {(row["width"], row["height"]) for row in rows if row["frames"]} == {(48, 48)}
    assert {row["parent_uid"] for row in rows} == {f"{0:032x}"}
    assert len(set(clips["uid"].to_pylist())) == 4
    assert not {"cuts", "container"} & set(clips.column_names)


def test_a_stretch_that_the_source_names_is_cut_out() -> None:
    data = encode([numbered(i) for i in range(100)])
    table = videos(data, data, meta=['{"start": 1.0, "end": 2.0}', '{"start": 9, "end": 12}'])
    clips = Clips(min_s=0.5).map(table)
    rows = pa.concat_tables(list(clips)).to_pylist()
    assert numbers_of(rows[0]["image"]) == list(range(25, 50))
    assert rows[1]["error"] == "stretch outside the video"
    assert segment_of('{"end": 3}') == (0.0, 3.0) and segment_of('{"start": 3}') is None
    assert seconds("0:01:02.5") == 62.5 and seconds("x") is None and seconds(-1) is None


def test_rows_of_one_video_differ_by_their_stretch(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(
        "video_url,caption,start_time,end_time\n"
        "http://a.test/v.mp4,a dog,0:01,0:03\nhttp://a.test/v.mp4,a dog,0:05,0:07\n"
    )
    source = Source(path=str(path), kind="video")
    table = pa.concat_tables(t for chunk in source.chunks() for t in source.read(chunk))
    assert len(set(table["uid"].to_pylist())) == 2 and len(set(table["image_id"].to_pylist())) == 1
    assert segment_of(table["meta"][1].as_py()) == (5.0, 7.0)


def read_all(path: Path) -> list[dict[str, Any]]:
    source = Source(path=str(path), kind="video")
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    return pa.concat_tables(tables).to_pylist()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_row_may_list_stretches_with_their_captions(tmp_path: Path, form: str) -> None:
    """As Panda-70M has them: lists, in CSV spelt out as Python does."""
    times = [["0:00:01.500", "0:00:03"], ["0:00:05", "0:01:07"]]
    rows: list[dict[str, Any]] = [
        {"url": "http://a.test/v.mp4", "caption": ["a dog's tail", 'a "cat"'], "timestamp": times},
        {"url": "http://a.test/w.mp4", "caption": ["one for two"], "timestamp": times},
        {"url": "http://a.test/x.mp4", "caption": ["whole", "other"], "timestamp": None},
    ]
    path = tmp_path / f"videos.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows[:2])
            writer.writerow({"url": rows[2]["url"], "caption": "whole", "timestamp": "2020-01-02"})
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    first, second, wrong, whole, *others = read_all(path)
    assert [first["caption"], second["caption"]] == ["a dog's tail", 'a "cat"']
    assert segment_of(first["meta"]) == (1.5, 3.0) and segment_of(second["meta"]) == (5.0, 67.0)
    assert first["image_id"] == second["image_id"] and first["uid"] != second["uid"]
    assert wrong["error"] == "timestamps and captions differ in number"
    assert whole["caption"] == "whole" and segment_of(whole["meta"]) is None
    assert whole["status"] == "pending"
    # Without stretches a list is what several people say of the whole.
    assert [other["caption"] for other in others] == ([] if form == "csv" else ["other"])


def test_rows_of_one_file_store_it_once_and_look_for_shots_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode([numbered(i) for i in range(30)])
    with open(tmp_path / "blobs", "wb") as blobs:
        table = pa.table({"uid": list("abcd"), "image": [data, data, b"other", None]})
        stored = store_images(table, blobs)
    assert stored["blob_offset"].to_pylist() == [0, 0, len(data), None]
    assert (tmp_path / "blobs").stat().st_size == len(data) + 5
    looked = []
    find = Shots.find
    monkeypatch.setattr(
        Shots, "find", lambda self, data, fps: looked.append(fps) or find(self, data, fps)
    )
    found = Shots().score(pa.table({"fps": [25.0, 25.0, 24.0]}), [data, bytes(data), data])
    assert looked == [25.0, 24.0] and found["decoded_frames"].to_pylist() == [30, 30, 30]


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_videos_are_found_in_what_people_have(tmp_path: Path, form: str) -> None:
    data = encode([numbered(i) for i in range(10)])
    if form == "folder":
        (tmp_path / "a.mp4").write_bytes(data)
        (tmp_path / "a.txt").write_text("a dog")
        (tmp_path / "a.jpg").write_bytes(b"no video")
        path = f"folder:{tmp_path}"
    elif form == "tar":
        path = str(tmp_path / "a.tar")
        with tarfile.open(path, "w") as tar:
            for name, content in (("a.mp4", data), ("a.txt", b"a dog"), ("b.txt", b"alone")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        path = str(tmp_path / "a.parquet")
        cell = {"bytes": data, "path": None}
        pq.write_table(pa.Table.from_pylist([{"video": cell, "caption": "a dog"}]), path)
    source = Source(path=path, kind="video")
    table = pa.concat_tables(t for chunk in source.chunks() for t in source.read(chunk))
    done = DownloadVideo()(table).to_pylist()
    good = [row for row in done if row["error"] is None]
    assert [(row["caption"], row["image"] == data) for row in good] == [("a dog", True)]
    assert [row["error"] for row in done if row["error"]] == (
        ["no video member"] if form == "tar" else []
    )
    if form == "folder":
        assert "1 .jpg" in source.notes()[0] and "videos" in source.notes()[0]


def test_settings_that_cannot_work_are_refused() -> None:
    for stage in (Clips(min_s=5, max_s=2), Clips(cut="roughly"), Shots(detector="magic"),
                  DownloadVideo(max_bytes=0), Source(path="x", kind="sound")):  # fmt: skip
        with pytest.raises(ConfigurationError):
            stage.check()


# -- what clips look like -----------------------------------------------------------------------


def facts(frames: list[Any]) -> dict[str, float]:
    clip = decode_clip(encode(frames))
    scores = ClipFacts().score(pa.table({"uid": ["x"]}), [clip])
    return {name: values[0] for name, values in scores.to_pydict().items()}


def test_motion_of_things_and_of_the_camera_are_told_apart() -> None:
    ground = noise(3, 128)
    moving = []
    for i in range(40):
        frame = ground.copy()
        cv2.circle(frame, (20 + 2 * i, 64), 16, (250, 250, 250), -1)
        moving.append(frame)
    things, camera = facts(moving), facts(shifted(4, 40, 3, 128))
    still, dark = facts([ground] * 40), facts([np.zeros_like(ground)] * 40)
    assert things["motion"] > 5 * things["camera_motion"] > 0
    assert camera["camera_motion"] > 5 * camera["motion"]
    assert still["static_share"] == 1 and still["motion"] == still["camera_motion"] == 0
    assert things["static_share"] == camera["static_share"] == 0
    assert dark["black_share"] == 1 and things["black_share"] == 0


def test_bars_blur_and_lettering_show() -> None:
    ground = noise(5, 128)
    barred, lettered = ground.copy(), ground.copy()
    barred[:32], barred[-32:] = 0, 0
    for row in range(16, 128, 20):
        cv2.putText(lettered, "WORDS WORDS", (2, row), 0, 0.55, (255, 255, 255), 2)
    sharp = np.asarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3)), np.uint8)
    assert facts([barred] * 20)["letterbox_share"] == pytest.approx(0.5, abs=0.03)
    assert facts([ground] * 20)["letterbox_share"] == 0
    assert facts([sharp] * 20)["sharpness"] > 10 * facts([ground] * 20)["sharpness"]
    assert facts([lettered] * 20)["text_share"] > 0.1 > facts([ground] * 20)["text_share"]


def test_moments_are_spread_evenly_and_short_clips_do() -> None:
    assert moments_of(1) == [0] and moments_of(5) == [0, 1, 2, 3, 4]
    assert moments_of(120) == [5 + 10 * i for i in range(12)]
    clip = decode_clip(encode([numbered(i) for i in range(3)]))
    assert len(clip.frames) == 3 and len(clip.signature) >= 1
