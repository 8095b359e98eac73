"""Stages: read from YAML, each from the weights of the one before, with the same curve after any
stop."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model_world import World
from safetensors.torch import load_file

from gristmill.errors import ConfigurationError, TrainingError
from gristmill.model.training.settings import train_config
from gristmill.model.training.stage_recipe import Stage, read_recipe, train_stages
from gristmill.model.training.train import Trainer
from gristmill.model.training.train_log import read_log


class _KilledError(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def _written(path: Path, recipe: object) -> str:
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def _recipe(world: World, folder: Path) -> list[Stage]:
    common = {
        "size": "nano", "data": world.shards, "codec": world.codes, "rows": 4, "row_length": 160,
        "questions": "shapes", "text_vocabulary": 300, "log_every": 1, "save_every": 2,
        "warmup": 1, "precision": "fp32", "steps": 3,
    }  # fmt: skip
    stages = [
        {"name": "align", "tasks": {"describe": 1}, "freeze": ["blocks", "embed"]},
        {"name": "pretrain", "experts": "mot", "rates": {"lm": 0.5}, "row_length": 200},
        {"name": "instruct", "experts": "mot", "tasks": "answer=1", "rate": 1e-3,
         "freeze": ["blocks.0"]},
    ]  # fmt: skip
    return read_recipe(_written(folder / "recipe.yaml", {"common": common, "stages": stages}))


def _curves(out: Path) -> list[list[tuple[float | None, float | None]]]:
    return [
        [(line["step"], line["loss"]) for line in read_log(str(folder))]
        for folder in sorted(out.iterdir())
    ]


def _dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on a training dies in the middle of its step of that number, counted from here."""
    update, calls = Trainer._update, []

    def die(self: Trainer, *given: Any) -> Any:
        calls.append(self.step)
        if len(calls) > after:
            raise _KilledError
        return update(self, *given)

    monkeypatch.setattr(Trainer, "_update", die)


@pytest.mark.drill
def test_three_stages_killed_in_each_have_the_same_curve(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = _recipe(world, tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = list(train_stages(stages, str(whole)))
    assert [Path(folder).name for folder, _ in done] == ["1-align", "2-pretrain", "3-instruct"]
    for after in (1, 3, 3, 2):
        with monkeypatch.context() as patched:
            _dying(patched, after)
            with pytest.raises(_KilledError):
                list(train_stages(stages, str(killed)))
    results = [result for _, result in train_stages(stages, str(killed))]
    assert results[:2] == [None, None] and results[2] is not None
    assert _curves(killed) == _curves(whole) and len(_curves(whole)) == 3
    # What a stage froze has the bits of the stage before.
    before, after_it = (
        load_file(f"{whole}/{name}/model.safetensors") for name in ("2-pretrain", "3-instruct")
    )
    same = {name for name in before if torch.equal(before[name], after_it[name])}
    assert same == {name for name in before if name.startswith("blocks.0.")}
    assert [result for _, result in train_stages(stages, str(killed))] == [None] * 3


@pytest.mark.drill
def test_a_signal_ends_the_stage_and_the_next_start_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = _recipe(world, tmp_path)[:2]
    losses = Trainer._losses

    def signalled(self: Trainer, batch: Any) -> Any:
        if self.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return losses(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_losses", signalled)
        ((_, result),) = train_stages(stages, str(tmp_path / "out"))
    assert result is not None and (result.stopped_by, result.steps) == (signal.SIGTERM, 2)
    assert [r.steps for _, r in train_stages(stages, str(tmp_path / "out")) if r] == [3, 3]
    # What is done was done with these settings, or says so.
    recipe = json.loads(json.dumps(yaml.safe_load((tmp_path / "recipe.yaml").read_text())))
    recipe["stages"][0]["rate"] = 0.5
    other = read_recipe(_written(tmp_path / "other.yaml", recipe))
    with pytest.raises(TrainingError, match=r"1-align was trained with other settings \(rate"):
        list(train_stages(other, str(tmp_path / "out")))


def test_stages_are_what_the_command_takes(world: World, tmp_path: Path) -> None:
    align, pretrain, instruct = _recipe(world, tmp_path)
    assert align.arguments["data"] == [world.shards] and align.arguments["tasks"] == "describe=1"
    assert 'freeze=["blocks", "embed"]' in align.arguments["settings"]
    assert pretrain.arguments["row_length"] == 200 and pretrain.arguments["paradigm"] == "ar"
    assert [stage.arguments["seed"] for stage in (align, pretrain, instruct)] == [0, 1, 2]
    bare = [{"name": "a", "size": "nano", "data": "x"}, {"name": "b", "data": "x"}]
    stages = read_recipe(_written(tmp_path / "bare.yaml", {"stages": bare}))
    assert [stage.arguments["size"] for stage in stages] == ["nano", "same"]


def test_numbers_may_be_written_without_a_point(world: World, tmp_path: Path) -> None:
    text = (
        "stages:\n- {name: a, size: nano, data: x, rate: 1e-3, steps: 1e3, rates: {lm: 1e-1},\n"
        "   z_weight: 1e-5, average: 99e-2}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    (stage,) = read_recipe(str(tmp_path / "recipe.yaml"))
    assert (stage.arguments["rate"], stage.arguments["steps"]) == (1e-3, 1000)
    config = train_config(out=str(tmp_path / "out"), **stage.arguments)
    assert (config.rate, config.steps, config.rates) == (1e-3, 1000, {"lm": 0.1})
    assert (config.z_weight, config.average) == (1e-5, 0.99)


def test_all_stages_are_checked_before_the_first_is_trained(world: World, tmp_path: Path) -> None:
    first = {
        "name": "a", "size": "nano", "data": world.shards, "codec": world.codes, "steps": 1,
    }  # fmt: skip
    second = {**first, "name": "b", "size": "same"}
    for wrong, message in (
        ({"schedule": "cosin"}, "stage 2, b: .* did you mean 'cosine'"),
        ({"rates": {"lm": "slow"}}, "stage 2, b: rates: lm has 'slow'"),
        ({"warmup": "long"}, "stage 2, b: --set warmup=.*a whole number is wanted"),
        ({"experts": "moe", "size": "nano"}, "stage 2, b: .*not moe of dense"),
        ({"data": str(tmp_path / "nowhere")}, "stage 2, b: .*nowhere"),
        ({"tasks": {"describ": 1}}, "stage 2, b: .* did you mean 'describe'"),
    ):
        stages = read_recipe(
            _written(tmp_path / "r.yaml", {"stages": [first, {**second, **wrong}]})
        )
        with pytest.raises(ConfigurationError, match=message):
            next(train_stages(stages, str(tmp_path / "out")))
        assert not (tmp_path / "out").exists(), wrong
    for wrong, message in (
        ({"rate": "fast"}, "stage b: rate: 'fast' is given, a number is wanted"),
        ({"steps": 1.5}, "stage b: steps: 1.5 is given, a whole number is wanted"),
        ({"data": 3}, "stage b: data: 3 is no folder"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            read_recipe(_written(tmp_path / "r.yaml", {"stages": [first, {**second, **wrong}]}))


def test_a_recipe_that_cannot_be_trained_is_said(tmp_path: Path) -> None:
    one = {"name": "a", "size": "nano", "data": "x"}
    for recipe, message in (
        ([], "has `stages`"),
        ({"stages": [one], "comon": {}}, "'comon' is not known"),
        ({"stages": [{"size": "nano"}]}, "stage 1 has no name"),
        ({"stages": [one, one]}, r"each another: \['a', 'a'\]"),
        (
            {"stages": [{**one, "rowlength": 3}]},
            "no setting 'rowlength'; did you mean 'row_length'",
        ),
        ({"stages": [{**one, "out": "y"}]}, "no setting 'out'"),
        ({"stages": [{"name": "a", "data": "x"}]}, "stage a has no size"),
        ({"stages": [{"name": "a", "size": "nano"}]}, "stage a has no data"),
        ({"stages": []}, "stages need names"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            read_recipe(_written(tmp_path / "recipe.yaml", recipe))
    with pytest.raises(ConfigurationError, match="No such file"):
        read_recipe(str(tmp_path / "none.yaml"))
