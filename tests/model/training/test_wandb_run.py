"""What Weights & Biases' own package writes of a training, offline; and what is said without it or
without a login."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from gristmill.errors import ConfigurationError
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log

Make = Callable[..., TrainConfig]

# A process of its own: the package starts another and leaves hooks in this one.
_TRAIN = """
import json, sys
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog
config = TrainConfig.from_dict(json.loads(sys.argv[1]))
train(config, TrainLog(config.out, quiet=True))
"""
_BLOCK, _HEADER = 32768, 7


def _train(config: TrainConfig) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, json.dumps(config.to_dict())],
        env={**os.environ, "WANDB_MODE": "offline"}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "wandb" not in done.stdout + done.stderr


def _records(path: Path) -> Iterator[Record]:
    """Of a .wandb file: a LevelDB log, whose records may go on in the next block."""
    data, at, parts = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


def _history(path: Path) -> list[dict[str, float]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json)
         for item in record.history.item}
        for record in _records(path)
        if record.HasField("history")
    ]  # fmt: skip


def test_the_curve_is_there_and_goes_on_in_the_same_run(config: Make) -> None:
    made = config(steps=2, save_every=2, wandb="team/mill", sample_every=2)
    _train(made)
    _train(config(steps=3, save_every=2, wandb="team/mill"))
    files = sorted(Path(made.out, "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1 and len(files) == 2
    runs = [next(r.run for r in _records(file) if r.HasField("run")) for file in files]
    assert {(run.entity, run.project, run.display_name) for run in runs} == {
        ("team", "mill", "out")
    }
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["row_length"] == 160 and settings["paradigm"] == "ar"
    written = [line for file in files for line in _history(file)]
    curve = {line["_step"]: line["loss"] for line in written if "loss" in line}
    assert curve == {line["step"]: line["loss"] for line in read_log(made.out)}
    assert sorted(curve) == [1, 2, 3] and any("samples" in str(line) for line in written)


def test_without_the_package_or_a_login_nothing_begins(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(wandb="mill")

    def nobody(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    with monkeypatch.context() as patched:
        patched.setattr(wandb, "init", nobody)
        with pytest.raises(ConfigurationError, match=r"No API key.*`wandb login`.*WANDB_MODE=off"):
            train(made, TrainLog(made.out, quiet=True))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigurationError, match=r'pip install "gristmill\[wandb\]"'):
        train(made, TrainLog(made.out, quiet=True))
    assert not Path(made.out, "log.jsonl").exists()
