"""What goes to the workers of a loader: no more than what they open."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_world import World

from gristmill.model.data.dataloader import Loader, document_to_read
from gristmill.model.data.planner import Planner
from gristmill.model.data.shard_sources import DataSource, OurSamples
from gristmill.model.training.training_setup import TrainingSetup, make_setup


def _tars(world: World, folder: Path, samples: int) -> str:
    """The first samples of a shard, as anybody's tar."""
    folder.mkdir()
    source = next(Path(world.plain).glob("train/*.tar"))
    with tarfile.open(source) as ours, tarfile.open(folder / "a.tar", "w") as theirs:
        members = [member for member in ours if member.name.endswith((".jpg", ".txt"))]
        for member in members[: 2 * samples]:
            theirs.addfile(member, ours.extractfile(member))
    return str(folder)


def _texts(folder: Path, samples: int, ending: str) -> str:
    path = str(folder) + ending
    texts = [f"text {number}" for number in range(samples)]
    if ending == ".parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=2)
    else:
        Path(path).write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


def _setup(world: World, folder: Path, url: str, task: str) -> TrainingSetup:
    config = world.config(folder)
    # One vocabulary for all.
    make_setup(config)
    source = DataSource(url=url, tasks={task: 1.0})
    tokenizer = f"{config.out}/tokenizer.json"
    return make_setup(dataclasses.replace(config, data=(source,), tokenizer=tokenizer))


@pytest.mark.parametrize("kind", ["tars", ".jsonl", ".parquet"])
def test_workers_are_sent_no_tables(world: World, tmp_path: Path, kind: str) -> None:
    """What a worker begins with, and is sent for a row, is as small for many samples as for few."""
    sizes = []
    for samples in (8, 60):
        folder = tmp_path / str(samples)
        made = _tars(world, folder, samples) if kind == "tars" else _texts(folder, samples, kind)
        setup = _setup(world, tmp_path / "out", made, "draw" if kind == "tars" else "text")
        assert setup.planner.size == samples
        loader = Loader(setup.planner, setup.image_tokenizer, setup.planner.config)
        assert next(iter(loader)).tokens
        sizes.append(len(pickle.dumps(loader._loader.dataset)))
    assert abs(sizes[1] - sizes[0]) < 200, sizes


def test_what_is_forgotten_is_not_sent(world: World, tmp_path: Path) -> None:
    samples = OurSamples(world.shards, "train")
    before = len(pickle.dumps(samples))
    samples.forgotten = frozenset(map(str, range(10_000)))
    assert len(pickle.dumps(samples)) == before


def test_a_row_is_sent_with_where_its_pictures_lie(world: World, tmp_path: Path) -> None:
    for url, wants_pixels in ((world.plain, True), (world.shards, False)):
        setup = _setup(world, tmp_path / "out", url, "draw")
        row = next(setup.planner.rows(setup.planner.start()))
        for plan in row:
            sent = document_to_read(setup.planner, plan)
            (picture,) = sent.pictures
            assert picture is not None and (picture.stored is None) == wants_pixels
            assert (picture.spot.shard, picture.spot.row) == (plan.shard, plan.row)
            assert sent.key == setup.planner.columns(0, plan.shard, plan.row)["uid"]
            assert len(pickle.dumps(sent)) < 3_000


def test_of_a_shard_only_rows_that_come_are_made_values(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank of many comes to few rows of each shard: it does not turn all of them into values."""
    setup = make_setup(world.config(tmp_path, rows_per_step=16))
    read: Counter[tuple[int, int]] = Counter()
    own = Planner._read_columns

    def counting(self: Planner, source: int, shard: int, row: int) -> Any:
        read[shard, row] += 1
        return own(self, source, shard, row)

    monkeypatch.setattr(Planner, "_read_columns", counting)
    planner = Planner(
        setup.planner.sources, setup.planner.writer, setup.planner.config, setup.image_tokenizer
    )
    loader = Loader(planner, setup.image_tokenizer, planner.config, rank=0, world=16)
    rows = list(itertools.chain(*itertools.islice(loader.plans(), 2)))
    shown = {(plan.shard, plan.row) for row in rows for plan in row}
    assert shown and shown <= set(read) and len(read) < planner.size / 2
