"""Lists of videos as public datasets publish them: every row the stretch, the file and the caption
that its line says, or why not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import read, write_tar

from gristmill.catalogs import catalog
from gristmill.errors import SourceError
from gristmill.pipelines.download.videos import VIDEO_PAGE, DownloadVideo
from gristmill.pipelines.schema import ROW
from gristmill.pipelines.sources import reasons
from gristmill.pipelines.sources.listed_videos import is_page, youtube_id
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.videos.split_clips import segment_of

IDS = ("aaaaaaaaaa0", "bbbbbbbbb-1", "ccccccccc_2")
WATCH = "https://www.youtube.com/watch?v="
SPAN = ["0:00:02.627", "0:00:14.639"]
LATER = ["0:00:14.639", "0:01:20.1"]
FIRST, SECOND = (2.627, 14.639), (14.639, 80.1)

# Each set: a line of its list, as of the video V; then the stretches and captions that it gives,
# and files of a folder that make it whole.
SETS: dict[str, tuple[str, Any, list[Any], list[str]]] = {
    "openvid-1m": (
        "csv",
        {"video": "celebv_V.mp4", "caption": "a barn", "frame": 120, "fps": 30.0, "seconds": 4.0},
        [(None, "a barn")], ["celebv_V.mp4"],
    ),
    "internvid": (
        "jsonl",
        {"YoutubeID": "V", "Start_timestamp": "00:00:02.627", "End_timestamp": "00:00:14.639",
         "Caption": "a barn", "UMT_Score": 0.4},
        [(FIRST, "a barn")], ["V.mp4"],
    ),
    "hd-vila-100m": (
        "jsonl",
        {"video_id": "V", "url": WATCH + "V", "clip": [
            {"clip_id": "V.1.mp4", "span": str(SPAN)}, {"clip_id": "V.16.mp4", "span": LATER}]},
        [(FIRST, None), (SECOND, None)], ["V.webm"],
    ),
    "howto100m": (
        "csv", {"video_id": "V", "category_1": "Food", "rank": 1, "task_id": 2},
        [(None, None)], ["V.mp4"],
    ),
    "miradata": (
        "csv",
        {"index": "8_V-1", "video_id": "V", "start_frame": 60, "end_frame": 120, "fps": 30,
         "short_caption": "barn", "dense_caption": "a barn", "start_timestep": 2.0,
         "end_timestep": 4.0},
        [((2.0, 4.0), "a barn")], ["V.mp4"],
    ),
    "koala-36m": (
        "csv",
        {"videoID": "V_0", "url": WATCH + "V", "timestamp": str(SPAN), "caption": "a barn"},
        [(FIRST, "a barn")], ["V.mp4"],
    ),
    "panda-70m": (
        "csv",
        {"videoID": "V", "url": WATCH + "V", "timestamp": str([SPAN, LATER]),
         "caption": str(["a man's bike", 'a "dog"']), "matching_score": "[0.4, 0.5]"},
        [(FIRST, "a man's bike"), (SECOND, 'a "dog"')], ["V.mp4"],
    ),
    "vript": (
        "jsonl",
        {"meta": {"video_id": "V", "num_clips": 3},
         "data": {"video_id": "V", "clip_id": "V-Scene-001", "caption": {"content": "a barn"}}},
        [(None, "a barn")], ["V/V-Scene-001.mp4", "V/V-Scene-002.mp4"],
    ),
    "vidgen-1m": (
        "json", {"vid": "V-Scene-0001", "caption": "a barn"},
        [(None, "a barn")], ["part/V-Scene-0001.mp4"],
    ),
    "webvid-10m": (
        "csv",
        {"videoid": 7, "page_dir": "0001_0050", "duration": "PT00H00M10S", "name": "a barn",
         "contentUrl": "https://ak.test/V.mp4"},
        [(None, "a barn")], [],
    ),
}  # fmt: skip


def of(values: Any, video: str) -> Any:
    """The same of another video."""
    return json.loads(json.dumps(values).replace("V", video).replace(f"{video}ID", "VID"))


def write(path: Path, form: str, lines: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(f".{form}")
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    elif form == "json":
        path.write_text(json.dumps(lines))
    else:
        path.write_text("\n".join(map(json.dumps, lines)))
    return path


def folder_of(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return str(folder)


@pytest.mark.filterwarnings("ignore::gristmill.catalogs.catalog.CatalogWarning")
@pytest.mark.parametrize("name", SETS)
def test_a_published_list_gives_its_stretches(name: str, tmp_path: Path) -> None:
    form, line, expected, files = SETS[name]
    assert catalog.load(name).recipe == "video-text"
    path = write(tmp_path / "list", form, [of(line, video) for video in IDS])
    names = [of(file, video) for video in IDS for file in files]
    images = folder_of(tmp_path / "videos", "notes.txt", *names)
    fields = catalog.resolve(f"catalog:{name}@{path}")
    Source(**fields, kind="video").check_columns()
    rows = read(**fields, kind="video", images=images)
    assert [(segment_of(row["meta"]), row["caption"]) for row in rows] == expected * len(IDS)
    assert {row["error"] for row in rows} == {None} and len({row["uid"] for row in rows}) == len(
        rows
    )
    for number, row in enumerate(rows):
        video = IDS[number // len(expected)]
        if files:
            assert row["pointer"].endswith(f"/{of(files[0], video)}")
        else:
            assert row["url"] == f"https://ak.test/{video}.mp4"
    # Rows of one file are fetched once; other files are others.
    assert len({row["image_id"] for row in rows}) == len(IDS)


def said(path: Path, form: str, *lines: dict[str, Any], **fields: Any) -> list[tuple[Any, Any]]:
    rows = read(write(path, form, list(lines)), kind="video", **fields)
    return [(segment_of(row["meta"]), row["error"]) for row in rows]


@pytest.mark.parametrize("name", ["internvid", "hd-vila-100m", "howto100m", "panda-70m"])
def test_pages_are_not_fetched_and_the_download_says_so(name: str, tmp_path: Path) -> None:
    form, line, expected, _ = SETS[name]
    fields = catalog.resolve(f"catalog:{name}@{write(tmp_path / 'l', form, [of(line, IDS[0])])}")
    rows = read(**fields, kind="video")
    assert [(row["status"], row["error"]) for row in rows] == [("pending", None)] * len(expected)
    assert {row["url"] for row in rows} == {WATCH + IDS[0]}
    fetched = DownloadVideo()(pa.Table.from_pylist(rows, ROW)).to_pylist()
    assert {(row["status"], row["error"]) for row in fetched} == {
        ("failed_to_download", VIDEO_PAGE)
    }
    assert [segment_of(row["meta"]) for row in rows] == [times for times, _ in expected]
    images = folder_of(tmp_path / "videos", "other.mp4", f"{IDS[0]}.txt")
    rows = read(**fields, kind="video", images=images)
    assert {row["error"] for row in rows} == {reasons.NO_FILE_OF_ID}


V = "http://a.test/v.mp4"
# The stretch of a line, spelt in one way or another; or why there is none.
SPELT: list[tuple[dict[str, Any], Any]] = [
    ({"start": 2, "end": 4.5}, (2.0, 4.5)),
    ({"start": "2", "end": "1e1"}, (2.0, 10.0)),
    ({"start": "0:02", "end": "00:01:04,250"}, (2.0, 64.25)),
    ({"start": "PT2S", "end": "PT1M4.5S"}, (2.0, 64.5)),
    ({"start": "0 days 00:00:02.5", "end": "0 days 00:01:00"}, (2.5, 60.0)),
    ({"start_time": 3, "duration": 2}, (3.0, 5.0)),
    ({"end": 4}, (0.0, 4.0)),
    ({"start_frame": "50", "end_frame": "100", "fps": "25"}, (2.0, 4.0)),
    ({"timestamp": "0:00:02.5 --> 0:01:00"}, (2.5, 60.0)),
    ({"timestamp": [2, 4]}, (2.0, 4.0)),
    ({"timestamps": '[["0:02", "0:04"]]'}, (2.0, 4.0)),
    ({"segments": ["0:02-0:04"]}, (2.0, 4.0)),
    ({"clip": {"span": "['00:00:17.759', '00:00:23.279']"}}, (17.759, 23.279)),
    ({"clips": [{"start": 1, "end": 2}]}, (1.0, 2.0)),
    ({"clips": [{"clip_start": 1, "clip_end": 2}]}, (1.0, 2.0)),
    ({"clip_start": 1, "clip_end": 2}, (1.0, 2.0)),
    ({"clip_start": None, "clip_end": 2}, reasons.NO_START),
    ({"span": "(1.5, 2.5)"}, (1.5, 2.5)),
    ({"start": "[1.5]", "end": [2.5]}, (1.5, 2.5)),
    ({"start": "", "end": None}, None),
    ({"timestamp": "2020-01-02"}, None),
    ({"timestamp": None}, None),
    ({"duration": 7, "fps": 25}, None),
    ({"clip": "a name"}, None),
    ({"start": float("nan"), "end": float("nan")}, reasons.BAD_TIMES),
    ({"start": 2, "end": float("nan")}, reasons.BAD_TIMES),
    ({"start": "nan", "end": "inf"}, reasons.BAD_TIMES),
    ({"start": -1, "end": 3}, reasons.BAD_TIMES),
    ({"start": "0:-1", "end": "0:03"}, reasons.BAD_TIMES),
    ({"start": "00:00:01:12", "end": "00:00:02:00"}, reasons.BAD_TIMES),
    ({"start": "1_0", "end": "2_0"}, reasons.BAD_TIMES),
    ({"start": True, "end": 3}, reasons.BAD_TIMES),
    ({"start": {"s": 1}, "end": 3}, reasons.BAD_TIMES),
    ({"start": [1, 2], "end": [3]}, reasons.BAD_TIMES),
    ({"start": [1], "end": 3}, reasons.BAD_TIMES),
    ({"start": [], "end": []}, reasons.NO_STRETCHES),
    ({"start": 3, "end": 3}, reasons.REVERSED_TIMES),
    ({"start": "0:05", "end": "0:02"}, reasons.REVERSED_TIMES),
    ({"start": None, "end": 3}, reasons.NO_START),
    ({"start": 3, "end": ""}, reasons.NO_END),
    ({"start": 3}, reasons.NO_END),
    ({"start_frame": 3, "end_frame": 30}, reasons.NO_RATE),
    ({"start_frame": 3, "end_frame": 30, "fps": 0}, reasons.NO_RATE),
    ({"start_frame": 3, "fps": 25}, reasons.NO_END),
    ({"start_frame": "x", "end_frame": 30, "fps": 25}, reasons.BAD_TIMES),
    ({"timestamp": "[['0:00:02.627', '0:00:1"}, reasons.BAD_TIMES),
    ({"timestamp": [0, 5, 10]}, reasons.BAD_TIMES),
    ({"timestamp": [{"text": "no times"}]}, reasons.BAD_TIMES),
    ({"timestamp": "[[0, 1, 2]]"}, reasons.BAD_TIMES),
    ({"timestamp": "[]"}, reasons.NO_STRETCHES),
    ({"clip": {"span": ["0:09", "0:04"]}}, reasons.REVERSED_TIMES),
    ({"clip": {"start": 4}}, reasons.NO_END),
]


@pytest.mark.parametrize(("values", "expected"), SPELT, ids=lambda value: str(value)[:60])
def test_a_stretch_is_what_its_spelling_says_or_none(
    values: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    found = said(tmp_path / "a", "jsonl", {"url": V, **values})
    assert found == [(None, expected) if isinstance(expected, str) else (expected, None)]


def test_one_wrong_stretch_of_a_list_fails_alone(tmp_path: Path) -> None:
    times = [[1, 2], [4, 3], ["x", 9], [5, 6.5]]
    line = {"url": V, "timestamp": times, "caption": list("abcd")}
    rows = read(write(tmp_path / "a", "jsonl", [line, line]), kind="video")
    assert [(row["caption"], row["error"]) for row in rows[:4]] == [
        ("a", None), ("b", reasons.REVERSED_TIMES), ("c", reasons.BAD_TIMES), ("d", None),
    ]  # fmt: skip
    assert segment_of(rows[3]["meta"]) == (5.0, 6.5)
    # Each is a row of its own, and the same line is the same rows.
    assert len({row["uid"] for row in rows}) == 4


def test_stretches_that_differ_by_little_are_two(tmp_path: Path) -> None:
    lines = [
        {"url": V, "start": 5442.401, "end": 5443.0},
        {"url": V, "start": 5442.404, "end": 5443},
    ]
    rows = read(write(tmp_path / "a", "jsonl", lines), kind="video")
    assert len({row["uid"] for row in rows}) == 2 and len({row["image_id"] for row in rows}) == 1


def test_times_of_parquet_have_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": [V] * 2,
            "start": pa.array([2_500, None], pa.duration("ms")),
            "end": pa.array([4_000, None], pa.duration("ms")),
            "clip": pa.array([None, [{"span": ["0:01", "0:02"]}]],
                             pa.list_(pa.struct([("span", pa.list_(pa.string()))]))),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet", kind="video")
    assert [segment_of(row["meta"]) for row in rows] == [(2.5, 4.0), (1.0, 2.0)]


# -- files by their ids -------------------------------------------------------------------------


def test_a_clip_that_was_cut_already_is_not_cut_again(tmp_path: Path) -> None:
    _, line, _, _ = SETS["hd-vila-100m"]
    koala = of(SETS["koala-36m"][1], IDS[1])
    images = folder_of(
        tmp_path / "v", f"{IDS[0]}.1.mp4", f"deep/{IDS[0]}.16.mp4", f"{IDS[0]}.mp4",
        f"{IDS[1]}_0.mp4",
    )  # fmt: skip
    path = write(tmp_path / "a", "jsonl", [of(line, IDS[0]), koala])
    rows = read(path, kind="video", images=images)
    assert [row["pointer"].removeprefix(f"file:{images}/") for row in rows] == [
        f"{IDS[0]}.1.mp4", f"deep/{IDS[0]}.16.mp4", f"{IDS[1]}_0.mp4",
    ]  # fmt: skip
    assert [segment_of(row["meta"]) for row in rows] == [None] * 3
    assert len({row["image_id"] for row in rows}) == 3
    assert json.loads(rows[0]["meta"])["source_start"] == SPAN[0]


def test_a_caption_of_a_clip_is_none_of_the_whole_video(tmp_path: Path) -> None:
    line = {"video_id": IDS[0], "clip_id": "x-Scene-001", "caption": "a barn"}
    images = folder_of(tmp_path / "v", f"{IDS[0]}.mp4")
    assert said(tmp_path / "a", "jsonl", line, images=images) == [(None, reasons.NO_FILE_OF_ID)]


def test_files_are_found_as_they_are_usually_called(tmp_path: Path) -> None:
    images = folder_of(
        tmp_path / "v", f"A title [{IDS[0]}].mkv", f"{IDS[1]}.mp4", f"b/{IDS[1]}.webm",
        f"{IDS[2]}.en.vtt", f"._{IDS[2]}.mp4", "deep/celebv.mp4",
    )  # fmt: skip
    (tmp_path / "v" / "linked.mp4").symlink_to("/etc/hostname")
    lines = [{"url": f"https://youtu.be/{IDS[0]}?t=5"}, {"video_id": IDS[1]}, {"video_id": IDS[2]},
             {"video": "celebv.mp4"}, {"video_id": "linked"}, {"video_id": "../../etc/hostname"},
             {"url": V}, {"video_id": ""}]  # fmt: skip
    rows = read(write(tmp_path / "a", "jsonl", lines), kind="video", images=images)
    assert [row["error"] for row in rows] == [
        None, reasons.AMBIGUOUS_NAME, reasons.NO_FILE_OF_ID, None, reasons.OUTSIDE,
        reasons.NO_FILE_OF_ID, None, reasons.NO_URL,
    ]  # fmt: skip
    assert rows[0]["pointer"].endswith("].mkv") and rows[3]["pointer"].endswith("/deep/celebv.mp4")
    assert rows[0]["url"] == lines[0]["url"]


def test_an_id_may_be_named_and_lie_within_objects(tmp_path: Path) -> None:
    line = {"a": {"b": "x1"}, "said": {"text": "a barn"}}
    path = write(tmp_path / "a", "jsonl", [line])
    columns = {"video_id": "a.b", "caption": "said.text"}
    images = folder_of(tmp_path / "v", "x1.mp4")
    Source(path=str(path), kind="video", columns=columns).check_columns()
    row = read(path, kind="video", columns=columns, images=images)[0]
    assert row["caption"] == "a barn" and row["pointer"].endswith("/x1.mp4")
    with pytest.raises(SourceError, match="no column 'b'"):
        Source(path=str(path), kind="video", columns={"video_id": "b"}).check_columns()


def test_a_list_of_pages_without_anything_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{WATCH}{IDS[0]}\n{V}\n")
    rows = read(tmp_path / "a.txt", kind="video")
    assert [row["error"] for row in rows] == [None, None]
    assert DownloadVideo().refusal(rows[0]["url"]) == VIDEO_PAGE
    assert DownloadVideo().refusal(rows[1]["url"]) is None


def test_clips_of_one_page_that_lie_in_a_tar_are_several(tmp_path: Path) -> None:
    past = {"clips": [SPAN], "clip_start": 3, "start_frame": 7, "end_timestep": 9}
    facts = json.dumps({"url": WATCH + IDS[0], **past}).encode()
    members = [(f"{i}.{end}", data) for i in range(2)
               for end, data in (("mp4", str(i).encode()), ("json", facts))]  # fmt: skip
    rows = read(write_tar(tmp_path / "a.tar", members), kind="video")
    assert len({row["image_id"] for row in rows}) == 2
    # They were cut already.
    assert [(segment_of(row["meta"]), row["error"]) for row in rows] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://www.youtube.com/watch?v={IDS[0]}&t=4s", IDS[0]),
        (f"HTTP://M.YouTube.com/watch?list=x&v={IDS[0]}", IDS[0]),
        (f"https://youtu.be/{IDS[1]}", IDS[1]),
        (f"https://www.youtube-nocookie.com/embed/{IDS[2]}", IDS[2]),
        (f"https://youtube.com/shorts/{IDS[2]}?feature=share", IDS[2]),
        ("https://www.youtube.com/@somebody", None),
        (f"https://notyoutube.com/watch?v={IDS[0]}", None),
        ("http://[broken", None),
        (None, None),
    ],
)
def test_the_id_of_a_page(url: str | None, expected: str | None) -> None:
    assert youtube_id(url) == expected and is_page(url) == (expected is not None)


def test_other_pages_are_known_too() -> None:
    for page in ("https://vimeo.com/76979871", "https://www.dailymotion.com/video/x8abc",
                 "https://www.bilibili.com/video/BV1xx411c7mD"):  # fmt: skip
        assert is_page(page)
    for file in ("https://vimeo.com/a/b.mp4", "https://player.vimeo.com/x.mp4", V, ""):
        assert not is_page(file)
