"""Weights written tensor by tensor are read by safetensors itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gristmill.errors import TrainingError
from gristmill.model.checkpoints.weight_files import write_weights


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {
        "b.weight": torch.randn(2, 5, 3),
        "a": torch.randn(7).to(torch.bfloat16),
        "turned": torch.randn(4, 6).T,
        "none": torch.zeros(0, 3),
    }
    path = str(tmp_path / "model.safetensors")
    write_weights(path, values)
    read = load_file(path)
    assert set(read) == set(values)
    assert all(torch.equal(read[name], value) for name, value in values.items())
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        write_weights(str(tmp_path / "none" / "model.safetensors"), {"a": torch.zeros(1)})
