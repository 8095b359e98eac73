"""What is said where later samples are longer than the first ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_world import World

from gristmill.model.data.first_rows import LongDocuments
from gristmill.model.data.planner import Planner
from gristmill.model.data.sample_order import SampleOrder
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog, read_log
from gristmill.model.training.training_setup import make_setup


def _state(read: int, too_long: int = 0, windowed: int = 0) -> StreamState:
    lane = LaneState(cursors=(read,), too_long=too_long, windowed=windowed)
    return StreamState((lane, LaneState(1, cursors=(0,))))


def test_a_share_that_doubles_is_told_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = make_setup(world.config(tmp_path)).planner
    long = LongDocuments(planner)
    # Nothing is planned where nothing is long.
    with monkeypatch.context() as patched:
        patched.setattr(Planner, "block", None)
        assert long.told(_state(1000, 5, 4)) == ""
    said = long.told(_state(1000, 20, 5))
    assert said.startswith("2.5% of the samples are longer than a row (left out 20, learnt in part")
    assert "it was 0.0%" in said and "--row-length" in said
    assert long.told(_state(2000, 60, 10)) == ""
    assert "5.0% of the samples" in long.told(_state(2000, 80, 20))


def test_later_texts_that_are_longer_are_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config(tmp_path / "out", steps=14, save_every=14)
    # The shards that come after the first window of the order.
    last = SampleOrder([20] * 20, config.seed)._order_shards(0)[0][16:].tolist()
    long, short = " ".join(map(str, range(200))), "0 1 2 3 4 5 6 7"
    texts = [long if shard in last else short for shard in range(20) for _ in range(20)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=20)
    source = DataSource(url=str(tmp_path / "a.parquet"), tasks={"text": 1.0})
    config = dataclasses.replace(config, data=(source,))
    train(config, TrainLog(config.out))
    windowed = [line["windowed"] or 0 for line in read_log(config.out)]
    assert windowed[0] == 0 and windowed[-1] > 5
    first, *_ = said = [line for line in capsys.readouterr().err.splitlines() if "it was" in line]
    step = int(first.split()[1].rstrip(":"))
    assert windowed[step - 2] < windowed[step - 1]
    assert "it was 0.0%" in first and len(said) < 6
