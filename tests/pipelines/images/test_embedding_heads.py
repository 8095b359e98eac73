"""Heads on embeddings: other people's files, ours, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.pipelines.images.embedding_heads import EmbeddingHeads, load_head, save_head
from gristmill.pipelines.images.fit_head import auc, fit_head, r2


def table(rows: np.ndarray) -> pa.Table:
    flat = pa.array(rows.astype(np.float16).reshape(-1))
    return pa.table({"image_embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])})


def unit(rows: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(rows.astype(np.float16).astype(np.float32))
    return torch.nn.functional.normalize(values, dim=1)


def test_a_state_dict_as_laion_publishes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(32, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 8), torch.nn.Dropout(),
        torch.nn.Linear(8, 1),
    ).eval()  # fmt: skip
    state = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    torch.save(state, tmp_path / "aesthetic.pth")
    rows = np.random.default_rng(0).standard_normal((50, 32))
    stage = EmbeddingHeads(heads={"aesthetic": str(tmp_path / "aesthetic.pth")})
    stage.check()
    found = stage(table(rows))["aesthetic"].to_numpy()
    assert found == pytest.approx(layers(unit(rows)).detach().numpy()[:, 0], abs=1e-4)


def test_a_linear_head_and_activations(tmp_path: Path) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(32, 1)
    torch.save({"state_dict": linear.state_dict()}, tmp_path / "linear.pt")
    deep = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    torch.save(deep.state_dict(), tmp_path / "deep.pt")
    rows = np.random.default_rng(0).standard_normal((9, 32))
    stage = EmbeddingHeads(heads={"one": str(tmp_path / "linear.pt")})
    assert stage(table(rows))["one"].to_numpy() == pytest.approx(
        linear(unit(rows)).detach().numpy()[:, 0], abs=1e-4
    )
    stage = EmbeddingHeads(heads={"two": str(tmp_path / "deep.pt")}, activation="gelu")
    assert stage(table(rows))["two"].to_numpy() == pytest.approx(
        deep(unit(rows)).detach().numpy()[:, 0], abs=1e-4
    )


def test_a_head_trained_here_tells_apart_and_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, 24))
    truth = rows @ rng.standard_normal(24) + rng.standard_normal(600) * 0.3
    head = fit_head(rows, list(truth > 0))
    assert head.output == "sigmoid" and head.facts["auc"] > 0.95
    path = str(tmp_path / "head.safetensors")
    save_head(path, head.weight, head.bias, head.output, head.facts)
    scores = EmbeddingHeads(heads={"p": path})(table(rows))["p"].to_numpy()
    assert scores.min() >= 0 and scores.max() <= 1
    assert auc(scores, (truth > 0).astype(float)) > 0.97


def test_captions_of_one_picture_are_held_out_together() -> None:
    # Five rows a picture, labels by chance: a head that met the picture would seem to know.
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((80, 64)), 5, axis=0)
    labels = np.repeat(rng.integers(0, 2, 80), 5)
    assert 0.2 < fit_head(rows, labels.tolist()).facts["auc"] < 0.8


def test_grades_are_explained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grades = 5 + rows @ rng.standard_normal(16) + rng.standard_normal(400) * 0.05
    head = fit_head(rows, grades.tolist())
    assert head.output == "identity" and head.facts["r2"] > 0.9
    assert r2(rows @ head.weight + head.bias, grades) > 0.9


@pytest.mark.parametrize("labels", [[1.0] * 50, [0.0, 1.0] * 5, [0.0] * 49 + [1.0]])
def test_labels_that_teach_nothing(labels: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="label"):
        fit_head(np.random.default_rng(0).standard_normal((len(labels), 4)), labels)


class Evil:
    def __reduce__(self) -> Any:
        return (Path("/tmp/gristmill-was-here").touch, ())


def test_what_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "evil.pth", "wb") as file:
        pickle.dump({"0.weight": Evil()}, file, protocol=2)
    torch.save(torch.nn.Linear(4, 1), tmp_path / "module.pth")
    torch.save({"0.weight": torch.zeros(3, 4), "2.weight": torch.zeros(1, 5)}, tmp_path / "bad.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 10)
    for name in ("evil.pth", "module.pth", "bad.pth", "noise.safetensors", "nowhere.pth"):
        with pytest.raises(MissingWeightsError):
            load_head(str(tmp_path / name))
    assert not Path("/tmp/gristmill-was-here").exists()
    save_head(str(tmp_path / "h.safetensors"), np.zeros(8), 0.0, "identity", {})
    with pytest.raises(ConfigurationError, match="the encoder"):
        EmbeddingHeads(heads={"x": str(tmp_path / "h.safetensors")})(table(np.zeros((2, 4))))
