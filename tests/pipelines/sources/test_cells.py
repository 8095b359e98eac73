"""What may be named as a column: a cell, something in it, the first of several, a text of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from source_files import read

from gristmill.errors import SourceError
from gristmill.pipelines.sources.cells import cell_of, missing_column
from gristmill.pipelines.sources.source import Source

ROW: dict[str, Any] = {
    "id": 42,
    "a.b": "its own name",
    "a|b": "its own sign",
    "data": {"caption": {"content": "a dog"}},
    "times": "['0:00:02.6', '0:00:14.6']",
    "spelt": '{"x": [1, 2]}',
    "clip": [{"span": ["1", "2"]}, {"span": ["3", "4"]}],
    "empty": " ",
    "nan": float("nan"),
    "title": "A+dog%21",
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("id", 42),
        ("a.b", "its own name"),
        ("a|b", "its own sign"),
        ("data.caption.content", "a dog"),
        ("data.caption.none", None),
        ("times.1", "0:00:14.6"),
        ("times.2", None),
        ("times.x", None),
        ("spelt.x.0", 1),
        ("title.0", None),
        ("clip.*.span", [["1", "2"], ["3", "4"]]),
        ("empty|nan|none|title|id", "A+dog%21"),
        ("empty|none", None),
        ("{id}.mp4", "42.mp4"),
        ("train/COCO_{id:05}.jpg", "train/COCO_00042.jpg"),
        ("{title:unquote}", "A dog!"),
        ("{data.caption.content} / {id}", "a dog / 42"),
        ("{none}.mp4", None),
        ("{empty}.mp4|{id}.avi", "42.avi"),
        ("{id:x}", None),
        ("none", None),
    ],
)
def test_what_a_name_leads_to(name: str, found: object) -> None:
    assert cell_of(ROW, name) == found


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("id", None),
        ("data.caption.none", None),
        ("no.id", "no.id"),
        ("{id}-{nobody}.jpg", "nobody"),
        ("nobody|id", None),
        ("nobody|no one", "nobody"),
        ("a|b", None),
    ],
)
def test_the_columns_that_a_name_needs(name: str, missing: str | None) -> None:
    assert missing_column(ROW, name) == missing


def test_a_table_is_read_by_them_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"vid": "x", "d": {"text": "a dog"}}, {"vid": "y", "d": {}}, {"d": {"text": "a cat"}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"url": "https://v.test/{vid}", "caption": "d.text"}
    rows = read(path, columns=columns)
    assert [(row["url"], row["caption"], row["error"]) for row in rows] == [
        ("https://v.test/x", "a dog", None),
        ("https://v.test/y", None, None),
        ("", "a cat", "no url"),
    ]
    assert json.loads(rows[0]["meta"]) == lines[0]
    files = read(path, columns={"path": "{vid}.jpg", "caption": "d.text"})
    assert [row["pointer"] for row in files[:2]] == [f"file:{tmp_path}/{n}.jpg" for n in "xy"]
    with pytest.raises(SourceError, match="no column 'video'; did you mean 'vid'"):
        Source(path=str(path), columns={"url": "https://v.test/{video}"}).check_columns()
