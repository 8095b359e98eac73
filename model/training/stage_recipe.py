"""Trainings in stages: each begins with the weights of the one before, and has its own data, tasks,
parts that learn, rates, row length and steps."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gristmill.errors import ConfigurationError, GristmillError, TrainingError, nearest
from gristmill.model.checkpoints import checkpoint
from gristmill.model.checkpoints.model_folder import read_model_facts
from gristmill.model.data.shard_sources import open_samples
from gristmill.model.distributed.ranks import join, rank
from gristmill.model.training.begin_with import require_experts
from gristmill.model.training.commands import train as train_command
from gristmill.model.training.setting_values import read_yaml, typed
from gristmill.model.training.settings import train_config, with_codec
from gristmill.model.training.train import TrainResult, train
from gristmill.model.training.train_config import TrainConfig, changed

_FORM = "a recipe has `stages`, a list of names with settings, and may have `common` ones"
# Of the command that trains: what a recipe decides by itself, or what is no setting.
_NOT_OF_A_STAGE = {"out", "settings", "address", "ranks"}


@dataclass(frozen=True)
class Stage:
    """A training of a recipe; what it is given beside its name is as `gristmill train` has it."""

    name: str
    # Arguments of `settings.train_config`.
    arguments: Mapping[str, Any]


def read_recipe(path: str) -> list[Stage]:
    """The stages of a YAML file. Raises `ConfigurationError` for one that cannot be trained."""
    try:
        with open(path, encoding="utf-8") as file:
            recipe = read_yaml(file.read())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"recipe {path}: {error}") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("stages"), list):
        raise ConfigurationError(f"recipe {path}: {_FORM}")
    if unknown := set(recipe) - {"stages", "common"}:
        raise ConfigurationError(f"recipe {path}: {min(unknown)!r} is not known; {_FORM}")
    common = recipe.get("common") or {}
    stages = [_stage(path, one, common, number) for number, one in enumerate(recipe["stages"])]
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        raise ConfigurationError(f"recipe {path}: stages need names, each another: {names}")
    return stages


def _stage(path: str, own: Any, common: Any, number: int) -> Stage:
    if not isinstance(own, dict) or not isinstance(common, dict) or not own.get("name"):
        raise ConfigurationError(f"recipe {path}: stage {number + 1} has no name; {_FORM}")
    given = {"size": "same" if number else "", **common, **own}
    name = str(given.pop("name"))
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(train_command).parameters.items()
        if key not in _NOT_OF_A_STAGE
    }
    settings = {field.name for field in dataclasses.fields(TrainConfig)} - set(defaults) - {"out"}
    arguments = dict(defaults)
    # A stage that follows meets its data in another order.
    arguments["seed"] += number
    arguments["settings"] = []
    for key, value in given.items():
        if key in defaults:
            arguments[key] = _argument(key, value, type(defaults[key]), f"{path}: stage {name}")
        elif key in settings:
            arguments["settings"].append(f"{key}={json.dumps(value)}")
        else:
            raise ConfigurationError(
                f"recipe {path}: stage {name}: no setting {key!r}; "
                f"{nearest(key, [*defaults, *sorted(settings)])}"
            )
    missing = [key for key in ("size", "data") if arguments[key] in ("", inspect.Parameter.empty)]
    if missing:
        raise ConfigurationError(f"recipe {path}: stage {name} has no {missing[0]}")
    return Stage(name, arguments)


def _argument(key: str, value: Any, kind: type, where: str) -> Any:
    """As a command line has it, where YAML has lists and maps."""
    if key == "data":
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ConfigurationError(f"recipe {where}: data: {value!r} is no folder, nor a list")
        return listed
    if key == "tasks" and isinstance(value, dict):
        return ",".join(f"{task}={share}" for task, share in value.items())
    return typed(value, kind if kind in (bool, int, float) else str, f"recipe {where}: {key}")


def train_stages(stages: list[Stage], out: str) -> Iterator[tuple[str, TrainResult | None]]:
    """Train them one after the other into folders below `out`; of each its folder and what it came
    to, None if it was done before. Goes on within a stage and between them; a signal ends it after
    the stage that it came to.

    Raises, before anything is trained, `ConfigurationError` for a stage that cannot be, and
    `TrainingError` if one that is done was trained with other settings.
    """
    join()
    configs = _configs(stages, out)
    done = [_is_done(config.out, config) for config in configs]
    for number, (stage, config) in enumerate(zip(stages, configs, strict=True)):
        result = None
        if not done[number]:
            if number:
                # The model that it begins with is there now, and may know a codec.
                config = _config(stage, config.out, configs[number - 1].out)
            _say(f"stage {number + 1} of {len(stages)}, {stage.name}: {config.out}")
            result = train(with_codec(config))
            # A sharded model is held by cycles; two would be there at once.
            gc.collect()
        yield config.out, result
        if result is not None and result.stopped_by:
            return


def _configs(stages: list[Stage], out: str) -> list[TrainConfig]:
    """The settings of all stages, checked as far as they can be before one is trained."""
    configs: list[TrainConfig] = []
    for number, stage in enumerate(stages):
        before = configs[-1] if configs else None
        folder = os.path.join(out, f"{number + 1}-{stage.name}")
        try:
            config = _config(stage, folder, before.out if before else "")
            for source in config.data:
                open_samples(source)
            if before is not None:
                require_experts(before.experts, config.experts)
        except GristmillError as error:
            raise ConfigurationError(f"stage {number + 1}, {stage.name}: {error}") from error
        configs.append(config)
    return configs


def _config(stage: Stage, folder: str, before: str) -> TrainConfig:
    arguments = {**stage.arguments, "init": before or stage.arguments["init"]}
    return train_config(out=folder, **arguments)


def _is_done(folder: str, config: TrainConfig) -> bool:
    if not os.path.exists(os.path.join(folder, checkpoint.MODEL_FILE)):
        return False
    facts = read_model_facts(folder)
    differing = changed(facts["training"], config)
    if differing:
        raise TrainingError(
            f"{folder} was trained with other settings ({'; '.join(differing)}): put them back, "
            "name the stage otherwise, or give another --out"
        )
    return facts["step"] >= config.steps


def _say(text: str) -> None:
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)
