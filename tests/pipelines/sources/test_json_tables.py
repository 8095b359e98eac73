"""A JSON object that holds a table, and one that is a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from source_files import read

from gristmill.pipelines.sources.json_tables import is_coco
from gristmill.pipelines.sources.source import Source

ROWS = [{"url": f"https://a.test/{i}.jpg", "caption": f"a dog {i}"} for i in range(3)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("url", "caption")}


@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"annotations": ROWS},
        {"info": {"url": "https://home.test"}, "annotations": ROWS},
        {"version": "1", "dataset": "x", "data": ROWS, "splits": ["train"]},
        {**COLUMNS, "users": ["x", "y", "z"]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("kind", ["auto", "jsonl"])
def test_tables_in_an_object(document: Any, indent: int | None, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, indent=indent))
    rows = read(path, format=kind)
    assert [(row["url"], row["caption"]) for row in rows] == [
        (row["url"], row["caption"]) for row in ROWS
    ]
    assert Source(path=str(path), format=kind).estimate_rows() in (3, 2, 4)


def test_an_object_that_is_a_row(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a dog"}]
    for number, row in enumerate(
        [
            {"image": "0.png", "conversations": turns},
            {"url": "https://a.test/0.png", "captions": ["a dog"], "boxes": [{"x": 1}]},
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(row))
        assert [row["caption"] for row in read(path)] == ["a dog"]
    # With another ending, a line is a row whatever it holds.
    (tmp_path / "a.jsonl").write_text(json.dumps({"url": "https://a.test/1", "annotations": ROWS}))
    assert len(read(tmp_path / "a.jsonl")) == 1


def test_coco_is_known_by_its_pictures() -> None:
    assert is_coco({"images": [], "annotations": []})
    assert is_coco({"images": [{"id": 1}], "info": {}})
    assert not is_coco({"images": ["a.jpg"], "captions": ["a dog"]})
    assert not is_coco({"annotations": ROWS})
