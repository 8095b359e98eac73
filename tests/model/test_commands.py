"""The command line of the model, from shards to a drawn picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_world import World
from typer.testing import CliRunner

from gristmill.cli import app
from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.paradigms import PARADIGMS
from gristmill.model.settings import parse_source, parse_tasks
from gristmill.model.shapes.scenes import draw, make_scene


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A codec, a tokenizer and a model, all by commands."""
    folder = tmp_path_factory.mktemp("commands")
    codec, tokenizer = str(folder / "codec.safetensors"), str(folder / "tokenizer.json")
    said = _run(
        "train-codec", "kmeans", "--data", world.plain, "--out", codec, "--set", "sizes=[64]"
    )
    assert "grid 6x6" in said and "ceiling: psnr" in said
    assert "entries" in _run("train-tokenizer", "--data", world.plain, "--out", tokenizer)
    out = str(folder / "model")
    said = _run(
        "train", "nano", "--data", world.plain, "--out", out, "--codec", codec, "--steps", "4",
        "--rows", "2", "--set", f"tokenizer={tokenizer}", "--set", "log_every=1",
    )  # fmt: skip
    assert "4 steps, loss" in said
    return out


def test_pictures_are_drawn_and_described(trained: str, tmp_path: Path) -> None:
    sheet, one = str(tmp_path / "grid.png"), str(tmp_path / "one.png")
    _run("generate", trained, "a small red circle", "--n", "3", "--out", sheet, "--guidance", "2")
    assert cv2.imread(sheet).shape[1] > 300
    _run("generate", trained, "a small red circle", "--out", one)
    assert cv2.imread(one).shape == (24, 24, 3)
    assert _run("describe", trained, one).endswith("\n")
    assert _run("ask", trained, one, "how many shapes?").endswith("\n")
    _run("edit", trained, one, "make it green", "--out", str(tmp_path / "edited.png"))
    assert (tmp_path / "edited.png").exists()


def test_evaluations_are_written_with_their_keys(trained: str, world: World) -> None:
    _run("evaluate", trained, "--suite", "shapes", "--count", "8")
    scores = json.loads(Path(trained, "evaluation.json").read_text())
    assert scores["suite"] == "shapes" and scores["steps"] == 4 and scores["seed"] == 0
    assert {
        "picture_exact", "picture_exact_shuffled", "caption_exact", "answer_exact",
        "answer_exact_without_existence", "held_out", "codec_ceiling",
    } <= set(scores)  # fmt: skip
    assert set(scores["held_out"]) == {"picture_exact", "caption_exact"}
    said = _run(
        "evaluate", trained, "--suite", "shards", "--data", world.plain, "--count", "6",
        "--clip", world.encoder,
    )  # fmt: skip
    scores = json.loads(said)
    assert scores["samples"] == 6 and {"text", "codes"} <= set(scores["held_out_loss"])
    assert scores["reconstruction"]["psnr"] > 10 and -100 <= scores["clip_score"] <= 100
    assert np.isfinite(scores["clip_fid"])


def test_a_paradigm_without_a_fitting_codec_gets_one(world: World, tmp_path: Path) -> None:
    out = str(tmp_path / "flow")
    _run(
        "train", "nano", "--paradigm", "flow", "--data", world.plain, "--out", out, "--steps", "2",
        "--rows", "2", "--codec", world.codes,
    )  # fmt: skip
    assert load(out).bundle.codec.kind == "raw"
    assert "flow" in PARADIGMS


def test_bad_input_is_one_message(world: World, trained: str, tmp_path: Path) -> None:
    for arguments, message in (
        (("train", "huge", "--data", world.plain, "--out", "x", "--codec", world.codes), "huge"),
        (("train", "nano", "--data", world.plain, "--out", "x", "--set", "speed=1"), "names:"),
        (("train-codec", "jpeg", "--data", world.plain), "choose one of"),
        (("describe", trained, str(tmp_path / "none.jpg")), "is not a picture"),
        (("evaluate", trained, "--suite", "poems"), "choose one of shapes, motion"),
        (
            ("generate", trained, "x", "--out", str(tmp_path / "no" / "where.png")),
            "cannot be written",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_sources_and_tasks_are_parsed() -> None:
    assert parse_source("2@runs/x").weight == 2 and parse_source("2@runs/x").url == "runs/x"
    assert parse_source("s3://a@b/c").url == "s3://a@b/c"
    assert parse_tasks("draw=0.5, describe=2") == {"draw": 0.5, "describe": 2.0}
    with pytest.raises(ConfigurationError, match="task=share"):
        parse_tasks("draw=much")


def test_pictures_of_any_shape_are_described(trained: str) -> None:
    model = load(trained)
    wide = np.tile(draw(make_scene(1), 40), (1, 3, 1))
    assert len(model.describe([wide, wide[:12]])) == 2
