"""Columns are found row by row, whatever the order of lines; what was given always holds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from source_files import read, write_tar

from gristmill.errors import SourceError
from gristmill.pipelines.sources.columns import ColumnMap
from gristmill.pipelines.sources.source import Source

LINES = [
    {"url": "http://h/1"},
    {"url": "http://h/2", "caption": "two dogs", "license": "CC"},
    {"image_url": "http://h/3", "text": "a cat", "WIDTH": 30},
    {"caption": "a hen", "url": "http://h/4", "licence": "PD", "width": 40, "height": 20},
]


def test_the_order_of_lines_never_changes_a_row(tmp_path: Path) -> None:
    kept = ("uid", "url", "caption", "licence", "original_width", "original_height", "meta")
    seen = set()
    for order in itertools.permutations(LINES):
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, order)))
        rows = read(tmp_path / "a.jsonl")
        seen.add(frozenset(tuple(row[name] for name in kept) for row in rows))
    assert len(seen) == 1
    found = {row[1]: row[2:6] for row in seen.pop()}
    assert found == {
        "http://h/1": (None, None, None, None),
        "http://h/2": ("two dogs", "CC", None, None),
        "http://h/3": ("a cat", None, 30, None),
        "http://h/4": ("a hen", "PD", 40, 20),
    }


def test_what_was_given_holds_in_lines_that_lack_it(tmp_path: Path) -> None:
    lines = [
        {"url": "http://h/1", "text": "boilerplate"},
        {"url": "http://h/2", "text": "boilerplate", "TRUE": "a dog"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = read(tmp_path / "a.jsonl", columns={"caption": "TRUE"})
    assert [row["caption"] for row in rows] == [None, "a dog"]
    Source(path=str(tmp_path / "a.jsonl"), columns={"caption": "TRUE"}).check_columns()
    with pytest.raises(SourceError, match="did you mean 'text'"):
        Source(path=str(tmp_path / "a.jsonl"), columns={"caption": "txet"}).check_columns()


def test_an_address_may_come_late_in_a_file(tmp_path: Path) -> None:
    lines = [{"caption": "no address"}] * 300 + [{"url": "http://h/1", "caption": "one"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Source(path=str(tmp_path / "a.jsonl")).check_columns()
    assert read(tmp_path / "a.jsonl")[-1]["caption"] == "one"


def test_stretches_of_videos_are_found_in_each_line(tmp_path: Path) -> None:
    lines = [
        {"url": "http://h/1"},
        {"url": "http://h/1", "start": 2, "end": 4},
        {"url": "http://h/1", "start_time": "0:05", "end_time": "0:07"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = read(tmp_path / "a.jsonl", kind="video")
    assert [json.loads(row["meta"]) for row in rows] == [
        {}, {"start": 2.0, "end": 4.0}, {"start": 5.0, "end": 7.0},
    ]  # fmt: skip


def test_what_was_given_holds_in_sidecars_too(tmp_path: Path) -> None:
    facts = json.dumps({"caption": "alt text", "recaption": "a dog"}).encode()
    write_tar(tmp_path / "a.tar", [("0.jpg", b"x"), ("0.json", facts)])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.jpg").write_bytes(b"x")
    (tmp_path / "folder" / "0.json").write_bytes(facts)
    for path in (tmp_path / "a.tar", tmp_path / "folder"):
        assert read(path)[0]["caption"] == "alt text"
        assert read(path, columns={"caption": "recaption"})[0]["caption"] == "a dog"
        Source(path=str(path), columns={"caption": "recaption"}).check_columns()
        with pytest.raises(SourceError, match="did you mean 'recaption'"):
            Source(path=str(path), columns={"caption": "recaptoin"}).check_columns()


def test_a_map_does_not_depend_on_the_order_of_names() -> None:
    for names in itertools.permutations(("text", "caption", "url", "x")):
        assert ColumnMap({}).of(names) == {"url": "url", "caption": "caption"}
    with pytest.raises(SourceError, match="rows have no 'captoin'; did you mean 'caption'"):
        ColumnMap({"captoin": "x"})
