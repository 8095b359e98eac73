"""Checkpoints and models of another version are refused in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_world import World

from gristmill.errors import TrainingError
from gristmill.model import load
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog


@pytest.mark.parametrize(("found", "when"), [(1, "an earlier"), (3, "a later")])
def test_another_version_is_refused_with_what_to_do(
    world: World, tmp_path: Path, found: int, when: str
) -> None:
    config = world.config(tmp_path, "flow", steps=1)
    train(config, TrainLog(config.out, quiet=True))
    said = rf"format {found}, of {when} version .* this one has 2: .* into another --out"
    for path in Path(config.out).rglob("*.json"):
        facts = json.loads(path.read_text())
        if "format" in facts:
            path.write_text(json.dumps({**facts, "format": found}))
    with pytest.raises(TrainingError, match=said) as raised:
        load(config.out)
    assert "\n" not in str(raised.value)
    with pytest.raises(TrainingError, match=said):
        train(config, TrainLog(config.out, quiet=True))
