"""Weights in one file or several are read back as they were, by us and by safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gristmill.errors import TrainingError
from gristmill.model.checkpoints.tensor_files import SafetensorsFiles, write_tensors

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "c": torch.ones(2, 2, 2, dtype=torch.float16),
    "d": torch.full((1,), 7.0),
    "turned": torch.arange(24.0).view(4, 6).T,
    "none": torch.zeros(0, 3),
    "whole numbers": torch.arange(3),
}


def _write(folder: Path, shard_bytes: int) -> None:
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in TENSORS.items()}
    write_tensors(str(folder), shapes, iter(TENSORS.items()), shard_bytes=shard_bytes)


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**6, 1), (60, 4), (1, 7)])
def test_what_is_written_is_read(shard_bytes: int, files: int, tmp_path: Path) -> None:
    _write(tmp_path, shard_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    with SafetensorsFiles.open(str(tmp_path)) as found:
        assert sorted(found.names()) == sorted(TENSORS)
        for name, value in TENSORS.items():
            assert torch.equal(found.read(name), value) and found.read(name).dtype == value.dtype
    # Theirs reads the files as well.
    theirs = {k: v for path in tmp_path.glob("*.safetensors") for k, v in load_file(path).items()}
    assert all(torch.equal(theirs[name], value) for name, value in TENSORS.items())


def test_another_number_of_files_leaves_none_of_before(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    _write(tmp_path, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    _write(tmp_path, 60)
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(TENSORS)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        _write(tmp_path / "none", 10**6)


def test_a_writer_that_stops_leaves_the_model_of_before(tmp_path: Path) -> None:
    _write(tmp_path, 10**6)
    before = (tmp_path / "model.safetensors").read_bytes()
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in TENSORS.items()}
    with pytest.raises(StopIteration):
        write_tensors(str(tmp_path), shapes, [("a", TENSORS["a"])], shard_bytes=1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingError, match=r"model\.safetensors cannot be read"),
        SafetensorsFiles.open(str(tmp_path)),
    ):
        pass
    _write(tmp_path, 1)
    index = tmp_path / "model.safetensors.index.json"
    elsewhere = {"weight_map": {"a": "../model-00001-of-00004.safetensors"}}
    index.write_text(json.dumps(elsewhere))
    with (
        pytest.raises(TrainingError, match="not there"),
        SafetensorsFiles.open(str(tmp_path)),
    ):
        pass
    index.write_text("{")
    with (
        pytest.raises(TrainingError, match="cannot be read"),
        SafetensorsFiles.open(str(tmp_path)),
    ):
        pass
