"""Lists of conversations as they are published: what shows no picture is learnt without any run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.errors import SampleError, ShardError
from gristmill.model.data.listed_conversations import lists_conversations
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.model.data.task_mix import pictures_of, turns_of

SHAREGPT = {
    "id": "a",
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
}
PAIR = {"instruction": "Add.", "input": "1, 2", "output": "3"}
PICTURED = {**SHAREGPT, "image": "a.png"}
MARKED = {"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}]}
ODD: list[dict[str, Any]] = [{"conversations": [{"from": "narrator", "value": "a"}]}, {"id": "b"}]
ROWS = [SHAREGPT, PICTURED, PAIR, MARKED, *ODD]


def write(path: Path) -> str:
    """The rows in the form that the ending says."""
    lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".jsonl":
        path.write_text(f"{lines}{{")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    else:
        names = {name for row in ROWS for name in row}
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in ROWS]), path)
    return str(path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_conversations_of_text_alone_are_samples(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = open_samples(DataSource(url=write(tmp_path / name)))
    assert samples.counts() == [2] and samples.media == "text"
    rows: list[Any] = [{**row, "media": "text"} for row in samples.table(0).to_pylist()]
    assert [turns_of(row) for row in rows] == [
        [("user", "Hi"), ("assistant", "Hello")],
        [("user", "Add.\n1, 2"), ("assistant", "3")],
    ]
    assert [pictures_of(row) for row in rows] == [[], []]
    assert [row["uid"] for row in rows] == [f"{name}/0", f"{name}/2"]
    said = capsys.readouterr().err
    assert "not read: 2 with pictures: gristmill run conversations, 1 unknown speaker" in said
    assert "1 no conversation" in said and ("broken json line" in said) == (name == "a.jsonl")
    with pytest.raises(SampleError, match="no picture"):
        samples.picture(0, 0)


def test_its_digest_is_that_of_what_is_said(tmp_path: Path) -> None:
    first, again = tmp_path / "a.json", tmp_path / "b.json"
    for path in (first, again):
        path.write_text(json.dumps([SHAREGPT]))
    digests = [open_samples(DataSource(url=str(path))).digest for path in (first, again)]
    assert digests[0] == digests[1]
    again.write_text(json.dumps([SHAREGPT, PAIR]))
    assert open_samples(DataSource(url=str(again))).digest != digests[0]


def test_a_list_of_pictures_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([PICTURED]))
    with pytest.raises(ShardError, match="no conversation of text alone: 1 with pictures: grist"):
        open_samples(DataSource(url=str(tmp_path / "a.json")))


def test_other_files_are_no_such_lists(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a"}))
    assert not lists_conversations(str(tmp_path / "a.jsonl"))
    assert not lists_conversations(str(tmp_path)) and not lists_conversations(
        str(tmp_path / "b.json")
    )
