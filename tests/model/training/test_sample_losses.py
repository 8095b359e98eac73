"""The loss of every sample: those of a step add up to what the log says of it, on any number of
ranks and after any stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from gloo_ranks import train_on_ranks
from model_world import World

from gristmill.model.data.shard_sources import DataSource
from gristmill.model.training.sample_losses import FOLDER, KINDS, SCHEMA
from gristmill.model.training.train import Trainer, steps_of, train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log
from gristmill.model.training.training_setup import make_setup

Make = Callable[..., TrainConfig]


def _train(config: TrainConfig) -> None:
    train(config, TrainLog(config.out, quiet=True))


def _kept(out: str) -> pa.Table:
    table = pq.read_table(f"{out}/{FOLDER}")
    assert table.schema.equals(SCHEMA)
    return table.sort_by([("step", "ascending"), ("uid", "ascending")])


def _require_sums_of_the_log(out: str, steps: int) -> None:
    table, lines = _kept(out), read_log(out)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for line in lines:
        of_step = table.filter(pc.equal(table["step"], line["step"]))
        for kind in KINDS:
            targets = np.array(of_step[f"targets_{kind}"])
            if not targets.sum():
                assert f"loss_{kind}" not in line
                continue
            losses = np.array(of_step[f"loss_{kind}"].fill_null(0.0))
            mean = (losses * targets).sum() / targets.sum()
            assert np.isclose(mean, line[f"loss_{kind}"], rtol=1e-5), (line["step"], kind)  # type: ignore[literal-required]


@pytest.mark.parametrize("paradigm", ["ar", "flow"])
def test_losses_of_samples_add_up_to_that_of_the_step(
    config: Make, world: World, paradigm: str
) -> None:
    two = (
        DataSource(url=world.shards, name="a", tasks={"draw": 1}),
        DataSource(url=world.plain, name="b", tasks={"describe": 1}),
    )
    made = config(paradigm, data=two, steps=3, micro_rows=3, sample_losses=True)
    _train(made)
    _require_sums_of_the_log(made.out, 3)
    table = _kept(made.out)
    # Just the samples that the loader gave, in the steps in which it did.
    given = [
        (step, uid, "ab"[source])
        for step, batch in enumerate(islice(steps_of(made, make_setup(made)), 3), start=1)
        for uids, sources in zip(batch.uids, batch.source, strict=True)
        for uid, source in zip(uids, sources, strict=True)
    ]
    found = zip(*(table[name].to_pylist() for name in ("step", "uid", "source")), strict=True)
    assert sorted(found) == sorted(given) and {source for *_, source in given} == {"a", "b"}
    assert not list(Path(made.out, FOLDER).glob("*.partial"))


def test_without_asking_nothing_is_kept(config: Make) -> None:
    made = config(steps=1)
    _train(made)
    assert not Path(made.out, FOLDER).exists()


def test_a_stop_at_any_moment_leaves_no_step_twice(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(steps=5, save_every=2, sample_losses=True)
    _train(whole)
    stopped = dataclasses.replace(whole, out=whole.out + "-stopped")

    class _KilledError(BaseException):
        pass

    update, save = Trainer._update, Trainer._save

    def die_in_step(self: Trainer, *given: Any) -> Any:
        if self.step == 3:
            raise _KilledError
        return update(self, *given)

    def die_before_checkpoint(self: Trainer) -> None:
        if self.step == 4:
            # The losses are written, the checkpoint is not.
            self.sample_losses.write()
            raise _KilledError
        save(self)

    for name, deadly in (("_update", die_in_step), ("_save", die_before_checkpoint)):
        with monkeypatch.context() as patched, pytest.raises(_KilledError):
            patched.setattr(Trainer, name, deadly)
            _train(stopped)
    assert max(_kept(stopped.out)["step"].to_pylist()) == 4
    _train(stopped)
    assert _kept(stopped.out).equals(_kept(whole.out))


@pytest.mark.drill
def test_ranks_keep_what_one_process_keeps(config: Make, tmp_path: Path) -> None:
    alone = config(steps=2, sample_losses=True)
    _train(alone)
    both = dataclasses.replace(alone, out=str(tmp_path / "both"))
    train_on_ranks(2, tmp_path / "ranks", both)
    assert len(list(Path(both.out, FOLDER).iterdir())) == 2
    one, two = _kept(alone.out), _kept(both.out)
    for name in ("uid", "step", "source", "targets_text", "targets_codes"):
        assert one[name].equals(two[name]), name
    for kind in ("text", "codes"):
        losses = [table[f"loss_{kind}"].fill_null(-1.0) for table in (one, two)]
        assert np.allclose(*losses, rtol=1e-3)
