"""Conversations about pictures go to shards with their turns, and a model that is trained on them
answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.recipes.conversations import conversations
from gristmill.dags.runs.verify import verify_run
from gristmill.dags.settings import apply_settings
from gristmill.errors import SourceError
from gristmill.model import load
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.training.settings import codec_from_shards
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.pipelines.shards.reader import ShardSet

COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}


def picture(colour: str) -> Any:
    """A plain one, but for a corner."""
    pixels = np.full((24, 24, 3), COLOURS[colour], np.uint8)
    pixels[:6, :6] = 0
    return pixels


def png(colour: str) -> bytes:
    return bytes(cv2.imencode(".png", picture(colour)[:, :, ::-1])[1].tobytes())


def run(source: Path, out: Path, form: str = "webdataset") -> dict[str, Any]:
    """The recipe, in this process."""
    dag = apply_settings(conversations(path=str(source)), [f"shards.format={form}"])
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        summary = execute(dag.without_idle(), str(out), options, progress)
    assert summary["ledger_ok"] and verify_run(str(out)) == []
    return dict(summary)


def said(out: Path) -> list[list[tuple[str, str]]]:
    """The turns of each sample."""
    samples = list(ShardSet(str(out / "shards")))
    return sorted([(t["role"], t["text"]) for t in s.columns["messages"]] for s in samples)


def reasons(out: Path) -> list[str]:
    table = pq.read_table(out / "ledger")
    return sorted(str(one) for one in table["reason"].to_pylist() if one)


def llava(folder: Path, count: int) -> Path:
    """As LLaVA writes them: a picture each, two in some, and what is wrong in others."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        colour = list(COLOURS)[i % 3]
        name = f"pictures/{i}.png"
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / name).write_bytes(png(colour))
        turns = [
            {"from": "human", "value": "<image>\nWhat colour is it?"},
            {"from": "gpt", "value": f"It is {colour}."},
            {"from": "human", "value": "Is it large?"},
            {"from": "gpt", "value": "yes"},
        ]
        rows.append({"id": f"{i}", "image": name, "conversations": turns})
    two = [
        {"from": "human", "value": "Is <image> as <image>?"}, {"from": "gpt", "value": "no"},
    ]  # fmt: skip
    names = ["pictures/0.png", "pictures/1.png"]
    rows.append({"id": "two", "image": names, "conversations": two})
    rows.append({"id": "no mark", "image": names[0], "conversations": rows[0]["conversations"][2:]})
    rows.append({"id": "text", "conversations": rows[0]["conversations"][2:]})
    rows.append({"id": "marks", "image": names[0], "conversations": two})
    rows.append({"id": "lost", "image": [names[0], "pictures/none.png"], "conversations": two})
    rows.append({"id": "mute", "image": names[0], "conversations": two[:1]})
    path = folder / "llava.json"
    path.write_text(json.dumps(rows))
    return path


def test_llava_json_becomes_shards_on_which_answers_are_learnt(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = run(llava(tmp_path, 12), out)
    # A picture is a row of its own, until it is part of a conversation again.
    assert summary["kept"] == 14
    turns = said(out)
    assert [("user", "Is <image> as <image>?"), ("assistant", "no")] in turns
    assert [("user", "<image>\nIs it large?"), ("assistant", "yes")] in turns
    for reason in (
        "conversation without pictures",
        "more picture marks than pictures",
        "nothing is answered",
        "image missing",
    ):
        assert reasons(out).count(reason) == 1, reason

    url = str(out / "shards")
    codec = tmp_path / "codec.safetensors"
    codec_from_shards("kmeans", [url], out=str(codec), side=24, patch=12, settings=["sizes=[16]"])
    config = TrainConfig(
        out=str(tmp_path / "model"), data=(DataSource(url=url, tasks={"chat": 1.0}),),
        codec=str(codec), size="nano", steps=60, rows_per_step=4, row_length=128,
        text_vocabulary=280, warmup=5, log_every=20, save_every=60, precision="fp32", rate=1e-2,
        compile=False,
    )  # fmt: skip
    result = train(config)
    assert result.last_loss < result.first_loss / 4
    model = load(config.out)
    for colour in COLOURS:
        asked = [("user", "<image>\nWhat colour is it?")]
        pieces: list[str] = []
        answer = model.chat(asked, [picture(colour)], on_text=pieces.append)
        assert answer == f"It is {colour}." and "".join(pieces) == answer and len(pieces) > 1
        turns = [*asked, ("assistant", answer), ("user", "Is it large?")]
        assert model.chat(turns, [picture(colour)]) == "yes"


def test_finevision_has_its_pictures_and_turns_in_the_table(tmp_path: Path) -> None:
    cells = [{"bytes": png(colour), "path": f"{colour}.png"} for colour in COLOURS]
    rows = [
        {
            "images": cells[:2],
            "texts": [{"user": "Which?", "assistant": "red"}, {"user": "And?", "assistant": "no"}],
        },
        {"images": cells[2:], "texts": [{"user": "<image> Which?", "assistant": "blue"}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", tmp_path / "run")
    assert said(tmp_path / "run") == [
        [
            ("user", "<image>\n<image>\nWhich?"),
            ("assistant", "red"),
            ("user", "And?"),
            ("assistant", "no"),
        ],
        [("user", "<image> Which?"), ("assistant", "blue")],
    ]
    samples = list(ShardSet(str(tmp_path / "run/shards")))
    assert sorted(len(sample.images) for sample in samples) == [1, 2]


def test_pictures_may_lie_in_the_turns_and_parquet_shards_have_turns_too(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png("red"))
    content = [
        {"type": "image_url", "image_url": {"url": "red.png"}},
        {"type": "text", "text": "?"},
    ]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}))
    run(tmp_path / "a.jsonl", tmp_path / "run", "parquet")
    assert said(tmp_path / "run") == [[("user", "<image>?"), ("assistant", "red")]]
    files = [str(p) for p in (tmp_path / "run/shards").rglob("0*.parquet")]
    files = [name for name in files if "metadata" not in name]
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert found[0]["messages"][1] == {"role": "assistant", "text": "red"}
    assert len(found[0]["images"]) == 1


def test_a_table_without_conversations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "caption": "red"}))
    with pytest.raises(SourceError, match="holds no conversations"):
        conversations(path=str(tmp_path / "a.jsonl")).stage("source").check_columns()  # type: ignore[attr-defined]
