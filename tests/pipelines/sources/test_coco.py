"""COCO captions: no picture gets the caption of another, and no caption is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from source_files import bytes_of, jpeg, read

from gristmill.errors import SourceError


def coco(folder: Path, names: list[Any], files: list[str], **more: Any) -> list[dict[str, Any]]:
    for number, name in enumerate(files):
        (folder / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "im" / name).write_bytes(jpeg(number))
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "caption": str(n)} for i, n in enumerate(names)],
        **more,
    }
    (folder / "c.json").write_text(json.dumps(document))
    return read(f"coco:{folder}/c.json", images=str(folder / "im"))


@pytest.mark.parametrize(
    ("names", "files", "found"),
    [
        # The exact path.
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["1.jpg"], ["1.jpg", "b/1.jpg"], ["1.jpg"]),
        # The end of a path, then a base name that only one has.
        (["a/1.jpg", "b/1.jpg"], ["x/a/1.jpg", "x/b/1.jpg"], ["x/a/1.jpg", "x/b/1.jpg"]),
        (["1.jpg"], ["val/1.jpg"], ["val/1.jpg"]),
        (["old/1.jpg"], ["val/1.jpg"], ["val/1.jpg"]),
        # Neither.
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], ["several files of that name"]),
        (["a/1.jpg", "b/1.jpg"], ["b/1.jpg"], ["file not found", "b/1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["c/1.jpg"], ["file not found", "file not found"]),
        (["../1.jpg", "/etc/2.jpg"], ["3.jpg"], ["path leaves the folder"] * 2),
        (["", None, 7], ["1.jpg"], ["no file name"] * 3),
        (["12:30:05.jpg"], ["12:30:05.jpg"], ["12:30:05.jpg"]),
        ([r"a\1.jpg"], ["a/1.jpg"], ["a/1.jpg"]),
    ],
)
def test_names_find_their_files(
    names: list[Any], files: list[str], found: list[str], tmp_path: Path
) -> None:
    rows = coco(tmp_path, names, files)
    assert [row["caption"] for row in rows] == [
        str(name) if name is not None else "None" for name in names
    ]
    for row, place in zip(rows, found, strict=True):
        if place in files:
            assert bytes_of([row]) == [jpeg(files.index(place))]
        else:
            assert (row["error"] or bytes_of([row])[0]) == place


def test_two_images_of_one_id_fail_both(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "1.jpg"},
        {"id": 1, "file_name": "2.jpg"},
        {"id": 2, "file_name": "2.jpg"},
    ]
    captions = [{"id": 1, "image_id": 1, "caption": "a"}, {"id": 2, "image_id": 2, "caption": "b"}]
    rows = coco(tmp_path, [], ["1.jpg", "2.jpg"], images=images, annotations=captions)
    assert [row["error"] for row in rows] == ["two images of one id"] * 2 + [None]


def test_what_belongs_to_nothing_is_a_row_with_its_reason(tmp_path: Path) -> None:
    captions = [{"id": 1, "image_id": 9, "caption": "a"}, {"id": 2, "caption": "b"}, "text", None]
    images = [{"id": 1, "file_name": "1.jpg"}, 5, {"id": [1], "file_name": "1.jpg"}]
    rows = coco(tmp_path, [], ["1.jpg"], images=images, annotations=captions)
    assert sorted(str(row["error"]) for row in rows) == [
        "None", "None", "broken entry", "broken entry", "broken entry",
        "caption of no image", "caption of no image",
    ]  # fmt: skip


def test_captions_of_other_types(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.jpg", "license": 3, "width": "9"}]
    captions = [
        {"id": i, "image_id": 1, "caption": text}
        for i, text in enumerate((["a", "b"], {"en": "c"}, 5))
    ]
    rows = coco(
        tmp_path,
        [],
        ["1.jpg"],
        images=images,
        annotations=captions,
        licenses=[None, {"id": 3, "name": "CC"}],
    )
    assert [row["caption"] for row in rows] == ["a", "b", None, "5"]
    assert {(row["licence"], row["original_width"]) for row in rows} == {("CC", 9)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "no list of 'images'"), ('{"images": {}}', "no list of 'images'"),
     ('{"images": [], "annotations": 5}', "'annotations' is no list"), ("[" * 9999, "is not JSON"),
     ('{"images": [{"id": 1, "file_name": "a", "file_name": "b"}]}', "two keys of one name"),
     ('{"images": [], "images": []}', "two keys of one name")],
)  # fmt: skip
def test_what_is_no_coco_file_says_so(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        read(f"coco:{tmp_path}/c.json")
