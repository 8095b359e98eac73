"""Each reason of a reader, by an input that has it: no reason is said of what is not so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import jpeg, read, write_tar
from warc_files import HTML, Answer, write_warc

from gristmill.pipelines import tar_samples
from gristmill.pipelines.sources import reasons
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.warc import LARGEST_PAGE

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"


def lines(text: str | bytes, **fields: Any) -> Callable[[Path], list[dict[str, Any]]]:
    def make(folder: Path) -> list[dict[str, Any]]:
        data = text if isinstance(text, bytes) else text.encode()
        good = "".join(f'{{"url": "http://h/{i}", "caption": "ä"}}\n' for i in range(20))
        (folder / "a.jsonl").write_bytes(good.encode() + data)
        return read(folder / "a.jsonl", **fields)

    return make


def video(values: str) -> Callable[[Path], list[dict[str, Any]]]:
    return lines(f'{{"url": "http://h/v.mp4", {values}}}', kind="video")


def table(text: str) -> Callable[[Path], list[dict[str, Any]]]:
    def make(folder: Path) -> list[dict[str, Any]]:
        (folder / "a.csv").write_text(f"url,caption\n{text}")
        return read(folder / "a.csv")

    return make


def tar(*members: tuple[str, bytes | str], cut: int | None = None) -> Any:
    def make(folder: Path) -> list[dict[str, Any]]:
        path = write_tar(folder / "a.tar", members)
        data = path.read_bytes()
        path.write_bytes(data[:cut] if cut is None or cut > 0 else b"x" * -cut)
        return read(path)

    return make


def coco(images: list[Any], captions: list[Any], *files: str) -> Any:
    def make(folder: Path) -> list[dict[str, Any]]:
        for name in ("im/0.jpg", *files):
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(jpeg())
        (folder / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
        return read(folder / "c.json", images=str(folder / "im"))

    return make


def archive(body: bytes, type: str = HTML, cut: bool = False, harm: int = 0, **said: Any) -> Any:
    """A crawl archive of a sound page and such a record; `harm`: a byte of it that is not so."""

    def make(folder: Path) -> list[dict[str, Any]]:
        answers = [
            Answer("http://h.test/a", b"<img src=c alt=c>"),
            Answer("http://h.test/b", body, type, **said),
        ]
        path = write_warc(folder / "a.warc.gz", answers)
        data = bytearray(path.read_bytes())
        if harm:
            data[harm] ^= 0xFF
        path.write_bytes(data[:-40] if cut else data)
        return read(path)

    return make


def folder_of(name: str, sidecar: bytes = b"") -> Any:
    def make(folder: Path) -> list[dict[str, Any]]:
        path = os.path.join(folder, "im")
        os.mkdir(path)
        Path(path, name).write_bytes(jpeg())
        if sidecar:
            Path(path, name).with_suffix(".json").write_bytes(sidecar)
        return read(path)

    return make


def shared_sidecar(folder: Path) -> list[dict[str, Any]]:
    for name in ("a.jpg", "a.png", "a.txt", "b.jpg", "b.txt", "c.jpg", "c.png"):
        (folder / name).write_bytes(b"text")
    rows = read(folder)
    assert [bool(row["error"]) for row in rows] == [True, True, False, False, False]
    return rows


def broken_group(folder: Path) -> list[dict[str, Any]]:
    path = folder / "a.parquet"
    pq.write_table(pa.table({"url": ["http://h/1" * 9]}), path, use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])
    return read(path)


def no_image(folder: Path) -> list[dict[str, Any]]:
    pq.write_table(pa.table({"image": pa.array([None], pa.binary())}), folder / "a.parquet")
    return read(folder / "a.parquet")


def several_in_row(folder: Path) -> list[dict[str, Any]]:
    cells = pa.array([[jpeg(), jpeg(1)]], pa.list_(pa.binary()))
    pq.write_table(pa.table({"image": cells}), folder / "a.parquet")
    return read(folder / "a.parquet")


def not_in_parquet(folder: Path) -> list[dict[str, Any]]:
    write_tar(folder / "0.tar", [("0.jpg", jpeg()), ("1.jpg", jpeg())])
    facts = {"url": ["http://h/0"], "key": ["0"], "status": ["success"]}
    pq.write_table(pa.table(facts), folder / "0.parquet")
    return read(folder)


def broken_header(folder: Path) -> list[dict[str, Any]]:
    path = write_tar(folder / "a.tar", [("0.jpg", jpeg()), ("1.jpg", jpeg())])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"1.jpg")] ^= 255
    path.write_bytes(bytes(data))
    return read(path)


def document(values: object) -> Any:
    def make(folder: Path) -> list[dict[str, Any]]:
        (folder / "a.jsonl").write_text(json.dumps(values))
        source = DocumentSource(path=str(folder / "a.jsonl"))
        found = [r for c in source.chunks() for t in source.read(c) for r in t.to_pylist()]
        images = json.loads(found[0]["meta"]).get("document", {}).get("images", [])
        return [*found, *({"error": image.get("error")} for image in images)]

    return make


def mmc4(**info: Any) -> Any:
    return document({"text_list": ["a"], "image_info": [info]})


def conversation(*turns: Any, image: Any = "a.jpg") -> Any:
    """Of a question with a picture that is answered, and such turns."""
    asked = {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}

    def make(folder: Path) -> list[dict[str, Any]]:
        row = {"image": image, "conversations": [*(asked if image else ()), *turns]}
        (folder / "a.jsonl").write_text(json.dumps(row))
        source = DocumentSource(path=str(folder / "a.jsonl"), kind="conversation")
        return [
            row for chunk in source.chunks() for t in source.read(chunk) for row in t.to_pylist()
        ]

    return make


MADE = {
    reasons.NO_TURNS: conversation(image=None),
    reasons.NO_ANSWER: conversation({"from": "human", "value": "a"}, image=None),
    reasons.NO_PICTURES: conversation({"from": "gpt", "value": "a"}, image=None),
    reasons.BROKEN_TURN: conversation("a"),
    reasons.UNKNOWN_SPEAKER: conversation({"from": "narrator", "value": "a"}),
    reasons.CALL_OF_TOOL: conversation({"role": "assistant", "tool_calls": [1]}),
    reasons.FEWER_PICTURES: conversation({"from": "human", "value": "<image>"}),
    reasons.MORE_PICTURES: conversation(image=["a.jpg", "b.jpg"]),
    reasons.BROKEN_JSON: lines("{"),
    reasons.TWO_KEYS: lines('{"url": "http://h/1", "url": "http://h/2"}'),
    reasons.NOT_UTF8: lines(b'{"url": "http://h/\xe9"}'),
    reasons.BROKEN_QUOTES: table('http://h/1,"a\nhttp://h/2,"b, c"\n'),
    reasons.BROKEN_ROW_GROUP: broken_group,
    reasons.SEVERAL_IN_ROW: several_in_row,
    reasons.wrong_cells(3, 2): table("http://h/1,a,b\n"),
    reasons.NO_URL: table(",a\n"),
    reasons.LOCAL_PATH: lines('{"path": 7}'),
    reasons.URL_NOT_TEXT: lines('{"url": {"at": "http://h/1"}}'),
    reasons.NO_TEXT: lines('{"prompt": " "}', kind="text"),
    reasons.BROKEN_SIDECAR: folder_of("a.jpg", b"{"),
    reasons.SHARED_SIDECAR: shared_sidecar,
    reasons.STRETCHES_DIFFER: lines(
        '{"url": "http://h/v", "timestamps": [[0, 1], [1, 2]], "caption": ["a"]}', kind="video"
    ),
    reasons.BAD_TIMES: video('"start": "soon", "end": 7'),
    reasons.REVERSED_TIMES: video('"timestamp": [["0:00:07.5", "0:00:07.5"]]'),
    reasons.NO_START: video('"start": null, "end": 7'),
    reasons.NO_END: video('"start": 7'),
    reasons.NO_STRETCHES: video('"clip": []'),
    reasons.NO_RATE: video('"start_frame": 0, "end_frame": 50'),
    reasons.NO_FILE_OF_ID: lines('{"vid": "7-Scene-1"}', kind="video"),
    reasons.OUTSIDE: coco([{"id": 0, "file_name": "../x.jpg"}], []),
    reasons.NAME_NOT_UTF8: folder_of(os.fsdecode(b"\xe9.jpg")),
    reasons.AMBIGUOUS_NAME: coco([{"file_name": "1.jpg"}], [], "im/a/1.jpg", "im/b/1.jpg"),
    reasons.REPEATED_IMAGE_ID: coco([{"id": 1, "file_name": "0.jpg"}] * 2, []),
    reasons.NO_IMAGE_OF_ID: coco([], [{"image_id": 3, "caption": "a"}]),
    reasons.BROKEN_ENTRY: coco([5], []),
    reasons.NO_FILE_NAME: coco([{"id": 1}], []),
    reasons.BROKEN_DOCUMENT: document({"text_list": 5}),
    reasons.OUTSIDE_TEXT: mmc4(raw_url="http://h/1", matched_text_index=7),
    reasons.NOT_IN_PARQUET: not_in_parquet,
    reasons.no_picture("image"): no_image,
    reasons.no_member("image"): tar(("0.txt", b"a")),
    tar_samples.NOT_A_TAR: tar(("0.jpg", b"x"), cut=-3000),
    tar_samples.BROKEN_TAR: broken_header,
    tar_samples.TRUNCATED_TAR: tar(("0.jpg", bytes(2000)), cut=1500),
    tar_samples.NOT_ADJACENT: tar(("0.jpg", b"x"), ("1.jpg", b"y"), ("0.txt", b"a")),
    tar_samples.REPEATED_MEMBER: tar(("0.jpg", b"x"), ("0.jpg", b"y")),
    tar_samples.SEVERAL_PICTURES: tar(("0.jpg", b"x"), ("0.png", b"y")),
    tar_samples.DEAD_LINK: tar(("0.jpg", "none.jpg")),
    reasons.BROKEN_RECORD: archive(b"", harm=-8),
    reasons.TRUNCATED_RECORD: archive(b"", cut=True),
    reasons.BROKEN_PAYLOAD: archive(b"\x1f\x8b\x08", headers=[("Content-Encoding", "gzip")]),
    reasons.LARGE_PAGE: archive(b" " * (LARGEST_PAGE + 1)),
    reasons.NOT_A_PAGE: archive(b"%PDF", "application/pdf"),
    reasons.REVISIT: archive(b"", kind="revisit"),
    reasons.NO_IMG: archive(b"<html>"),
    reasons.NO_ALT: archive(b"<img src=a.jpg>"),
    reasons.NOT_WEB: archive(b"<img src=data:x alt=y>"),
    reasons.OF_NO_PAGE: archive(b"x", "image/jpeg"),
}


@pytest.mark.parametrize("reason", MADE)
def test_a_reason_is_said_where_it_is_so(reason: str, tmp_path: Path) -> None:
    said = {row["error"] for row in MADE[reason](tmp_path)} - {None}
    assert said == {reason}


def test_every_reason_is_tried_and_explained() -> None:
    texts = {v for n, v in vars(reasons).items() if n.isupper() and isinstance(v, str)}
    of_tars = {v for n, v in vars(tar_samples).items() if n.isupper() and isinstance(v, str)}
    of_tars -= {tar_samples.FACT_ENDING, tar_samples.DOT_FILES}
    assert texts | of_tars <= MADE.keys()
    page = DOCS.read_text().replace("N cells", "3 cells").replace("has M", "has 2")
    assert [reason for reason in MADE if f"`{reason}`" not in page] == []


SOUND = {
    "clock": folder_of("12:30:05.jpg"),
    "colons": folder_of("a::b.jpg"),
    "clock in a tar": tar(("12:30.jpg", b"x")),
    "coco": coco([{"file_name": "0.jpg"}], []),
}


@pytest.mark.parametrize("made", SOUND)
def test_what_is_sound_has_no_reason(made: str, tmp_path: Path) -> None:
    assert [row["error"] for row in SOUND[made](tmp_path)] == [None]
