"""Conversations in tars of others: one picture, several, none; what is odd stays a caption."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign_tars import write_tar

from gristmill.errors import SampleError
from gristmill.model.data.shard_sources import DataSource, Samples, open_samples
from gristmill.model.data.task_mix import TaskMix, pictures_of, turns_of
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.tasks import GuidanceDropout
from gristmill.model.documents.vocabulary import Vocabulary, train_text

ONE = {
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]
}
TWO = {
    "messages": [
        {"role": "user", "content": "Is <image> as <image>?"},
        {"role": "assistant", "content": "no"},
    ]
}
TEXTS = {"texts": [{"user": "Why?", "assistant": "so"}]}


def jpeg(side: int) -> bytes:
    pixels = np.full((side, 2 * side, 3), 90, np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    odd = {"conversations": [{"from": "narrator", "value": "?"}], "caption": "said"}
    members = [
        ("one.jpg", jpeg(8)), ("one.json", as_json({**ONE, "caption": "beside"})),
        ("two.json", as_json(TWO)), ("two.2.jpg", jpeg(8)), ("two.10.jpg", jpeg(16)),
        ("text.json", as_json(TEXTS)),
        ("turns.json.gz", gzip.compress(as_json(ONE["conversations"]))), ("turns.png", jpeg(8)),
        ("odd.jpg", jpeg(8)), ("odd.json", as_json(odd)),
        ("fewer.jpg", jpeg(8)), ("fewer.json", as_json(TWO)),
        ("several.0.jpg", jpeg(8)), ("several.1.jpg", jpeg(8)), ("several.json", as_json({})),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    return open_samples(DataSource(url=str(tmp_path)))


def columns_of(samples: Samples) -> dict[str, Any]:
    return {row["uid"]: {**row, "media": "image"} for row in samples.table(0).to_pylist()}


def test_turns_and_pictures_are_those_of_the_sample(samples: Samples) -> None:
    rows = columns_of(samples)
    found = {key: (turns_of(row), pictures_of(row)) for key, row in rows.items()}
    assert found == {
        "one": ([("user", "<image>\nWhat?"), ("assistant", "a")], [(0,)]),
        "two": ([("user", "Is <image> as <image>?"), ("assistant", "no")], [(0,), (1,)]),
        "text": ([("user", "Why?"), ("assistant", "so")], []),
        "turns": ([("user", "<image>\nWhat?"), ("assistant", "a")], [(0,)]),
        "odd": ([], [(0,)]),
        "fewer": ([("user", "Is <image> as <image>?"), ("assistant", "no")], [(0,)]),
        "several": ([], [(0,)]),
    }
    assert rows["one"]["caption"] == "beside" and rows["odd"]["caption"] == "said"
    assert rows["several"]["fault"] == "several pictures in one sample"
    # By number, as they are read.
    uids = samples.table(0)["uid"].to_pylist()
    assert rows["two"]["image_heights"] == [8, 16] and rows["two"]["image_widths"] == [16, 32]
    at = uids.index("two")
    assert [samples.picture(0, at, i).shape for i in range(2)] == [(8, 16, 3), (16, 32, 3)]
    with pytest.raises(SampleError, match="no image"):
        samples.picture(0, uids.index("text"))
    # One of its two rows is there, and one that holds two pictures is one.
    assert sorted(uids).count("two") == 1


def choose(row: dict[str, Any], tasks: dict[str, float]) -> list[Segment] | None:
    """The segments of a row under a mix of tasks."""
    vocabulary = Vocabulary(train_text(["a b"] * 3, 260))
    writer = DocumentWriter(vocabulary, find_paradigm("ar"), DocumentLayout(patches=4))
    source = DataSource(url="x", tasks=tasks)
    mix = TaskMix(source, writer, row_length=99, captions="all", dropout=GuidanceDropout())
    grids = [PictureGrid((1, 1))] * 3
    found = mix.choose(row, (1, 2), lambda _: grids)  # type: ignore[arg-type]
    return None if found is None else found.segments


def test_what_a_sample_has_is_what_is_learnt(samples: Samples) -> None:
    rows = columns_of(samples)
    both = choose(rows["two"], {"chat": 1.0})
    assert both is not None
    assert [s.number for s in both if isinstance(s, ImageSegment)] == [0, 1]
    alone = choose(rows["text"], {"chat": 1.0, "describe": 9.0, "draw": 9.0})
    assert alone is not None and not any(isinstance(s, ImageSegment) for s in alone)
    assert choose(rows["odd"], {"chat": 1.0}) is None
    with pytest.raises(SampleError, match="more picture marks than pictures"):
        choose(rows["fewer"], {"chat": 1.0})
    # Where there is something else, that is learnt.
    rows["fewer"]["caption"] = "said"
    told = choose(rows["fewer"], {"chat": 9.0, "describe": 0.1})
    assert told is not None and isinstance(told[-1], TextSegment) and told[-1].text == "said"


def test_a_question_and_its_answer_are_a_conversation() -> None:
    row = {"question": "What?", "answer": "a", "caption": "b", "media": "image"}
    asked = choose(row, {"chat": 1.0})
    assert asked == choose(row, {"answer": 1.0}) and asked is not None and len(asked) == 3
