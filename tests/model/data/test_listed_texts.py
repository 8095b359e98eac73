"""Texts of others as training data: lists as they are published, and windows of long ones."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_world import World, planned

from gristmill.errors import ShardError
from gristmill.model.data.dataloader import PackedRowBuilder, document_to_read
from gristmill.model.data.listed_texts import lists_texts
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.model.documents.segments import TextSegment
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import TrainingSetup, make_setup

TEXTS = ["a red circle", "", "words " * 4000, "two blue squares", "a green star above a circle"]


def write(folder: Path, name: str, texts: list[str]) -> str:
    path = folder / name
    lines = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts))
    if name.endswith(".parquet"):
        table = pa.table({"text": texts, "id": range(len(texts))})
        pq.write_table(table, path, row_group_size=2)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".zst"):
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(lines.encode())
    else:
        path.write_text(lines)
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_lists_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    url = write(tmp_path, name, TEXTS)
    samples = open_samples(DataSource(url=url))
    found = [
        text
        for shard in range(len(samples.counts()))
        for text in samples.table(shard)["caption"].to_pylist()
    ]
    assert [text for text in found if text] == [text for text in TEXTS if text]
    assert samples.media == "text" and sum(samples.counts()) == len(found)
    uids = [
        uid for s in range(len(samples.counts())) for uid in samples.table(s)["uid"].to_pylist()
    ]
    assert len(set(uids)) == len(uids)
    before = samples.digest
    assert open_samples(DataSource(url=url)).digest == before
    other = write(tmp_path, name, [*TEXTS[:-1], "something else"])
    assert open_samples(DataSource(url=other)).digest != before


def test_what_is_no_list_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a dog", "url": "http://a/b.jpg"}) + "\n")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text("")
    for name in ("a.jsonl", "b.parquet", "c.jsonl", "not there.jsonl"):
        assert not lists_texts(str(tmp_path / name))
    empty = write(tmp_path, "d.parquet", ["a"])
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), empty)
    with pytest.raises(ShardError, match="holds no text"):
        open_samples(DataSource(url=empty))


@pytest.fixture
def config(world: World, tmp_path: Path) -> TrainConfig:
    base = world.config(tmp_path, row_length=120, rows_per_step=4)
    make_setup(base)
    return dataclasses.replace(base, tokenizer=f"{base.out}/tokenizer.json")


def text_setup(config: TrainConfig, url: str, **changes: object) -> TrainingSetup:
    source = DataSource(url=url, tasks={"text": 1.0})
    return make_setup(dataclasses.replace(config, data=(source,), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("paradigm", ["ar", "masked", "discrete-diffusion"])
def test_a_long_text_is_learnt_by_windows(
    world: World, config: TrainConfig, tmp_path: Path, paradigm: str
) -> None:
    """None is left out, each window fills its row, and over time they cover all of it."""
    words = [f"{chr(97 + i % 26)}{i}" for i in range(3000)]
    setup = text_setup(config, write(tmp_path, "a.jsonl", [" ".join(words)]), paradigm=paradigm)
    rows, lanes = planned(setup.planner, 300)
    assert sum(lane.too_long for lane in lanes) == 0
    windows: list[list[int]] = []
    middle = ends = 0
    for row in rows:
        (plan,) = row
        texts = [segment for segment in plan.segments if isinstance(segment, TextSegment)]
        assert plan.windowed and texts[-1].is_target and len(texts) == len(plan.segments)
        # What begins in the middle has a first token that follows from nothing.
        assert [s.begins for s in texts] in ([False], [True, False]) and len(texts[0].ids or ()) > 0
        middle += len(texts) == 2
        ends += texts[-1].ends
        length = setup.planner.writer.length(plan.segments)
        # Where text is unmasked in blocks, a block more would not fit.
        assert (60 if paradigm == "discrete-diffusion" else 110) < length <= 120
        windows.append([id for segment in texts for id in segment.ids or ()])
    assert middle > 250 and ends < 50
    text = " ".join(words)
    said = [setup.vocabulary.decode(window).strip() for window in windows]
    assert all(one in text for one in said)
    shown = {word for one in said for word in one.split()[1:-1]}
    assert shown <= set(words)
    assert len(shown) > (0.5 if paradigm == "discrete-diffusion" else 0.8) * len(words)
    builder = PackedRowBuilder(setup.planner.samples, setup.planner.writer, setup.image_tokenizer)
    for row in rows[:20]:
        (document,) = builder[[document_to_read(setup.planner, plan) for plan in row]]
        assert 0 < len(document.ids) <= 120 and (document.weight > 0).any()


def test_short_ones_are_whole_and_mix_with_pictures(
    world: World, config: TrainConfig, tmp_path: Path
) -> None:
    url = write(tmp_path, "a.parquet", ["a red circle", "two blue squares"])
    texts = DataSource(url=url, tasks={"text": 1.0}, weight=1.0)
    setup = make_setup(dataclasses.replace(config, data=(config.data[0], texts)))
    rows, lanes = planned(setup.planner, 400)
    sources = [plan.source for row in rows for plan in row]
    assert 0.35 < sum(sources) / len(sources) < 0.65
    assert not any(lane.windowed or lane.too_long for lane in lanes)
