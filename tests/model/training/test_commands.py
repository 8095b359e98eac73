"""The command line of the model, from shards to a drawn picture."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_world import World
from shape_shards import build_shapes
from typer.testing import CliRunner

from gristmill.cli import app
from gristmill.errors import ConfigurationError, TrainingError
from gristmill.model import load
from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.shard_sources import open_samples
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.shapes.scenes import draw, make_scene
from gristmill.model.training import train_log
from gristmill.model.training.settings import parse_source, parse_tasks

# What a training without --codec and without a tokenizer leaves in --out.
LEFT = ("trained-codec.safetensors", "tokenizer.json")


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
    _run(
        "edit", trained, one, "make it green", "--out", str(tmp_path / "edited.png"),
        "--guidance", "2", "--picture-guidance", "1.5",
    )  # fmt: skip
    frames = str(tmp_path / "frames.png")
    assert "3 of 24x24 px" in _run("generate", trained, "a star", "--frames", "3", "--out", frames)
    assert (tmp_path / "edited.png").exists()


def test_evaluations_are_written_with_their_keys(trained: str, world: World) -> None:
    _run("evaluate", trained, "--suite", "shapes", "--count", "8")
    scores = json.loads(Path(trained, "evaluation.json").read_text())
    assert scores["suite"] == "shapes" and scores["steps"] == 4 and scores["seed"] == 0
    assert {
        "picture_exact", "picture_exact_shuffled", "caption_exact", "answer_exact",
        "answer_exact_without_existence", "held_out", "codec_ceiling",
    } <= set(scores)  # fmt: skip
    assert set(scores["held_out"]) == {"picture_exact", "caption_exact", "codes_never_met"}
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


def test_bad_input_is_one_message(
    world: World, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.txt").write_text("here already")
    nano = ("train", "nano", "--data", world.plain, "--out")
    janus = (*nano, "x", "--paradigm", "janus", "--encoder")
    for arguments, message in (
        (("train", "tini", "--data", world.plain, "--out", "x"), "did you mean 'tiny'"),
        ((*nano, "x", "--paradigm", "mask"), "did you mean 'masked'"),
        ((*nano, "x", "--experts", "mob"), "did you mean 'mot'"),
        ((*nano, "x", "--tasks", "drew=1"), "did you mean 'draw'"),
        ((*janus, "ViT-B-23/openai"), "did you mean 'ViT-B-32'"),
        ((*janus, "local-dir:nowhere"), "there is no folder nowhere"),
        ((*nano, "taken.txt"), "is a file, and a training is a folder"),
        ((*nano, "taken.txt/below"), "is a file, and a training is a folder"),
        (("train-codec", "kmean", "--data", world.plain), "did you mean 'kmeans'"),
        ((*nano, "x", "--set", "speed=1"), "names:"),
        ((*nano, "x", "--set", "rates={lm: [}"), "while parsing a flow node"),
        ((*nano, "x", "--set", "compile=perhaps"), "true or false is wanted"),
        ((*nano, "x", "--set", "warmup=2.5"), "a whole number is wanted"),
        (("train-codec", "jpeg", "--data", world.plain), "choose one of"),
        (("describe", trained, "none.jpg"), "is not a picture"),
        (("evaluate", trained, "--suite", "poems"), "choose one of shapes, motion"),
        (("generate", trained, "x", "--out", "no/where.png"), "cannot be written"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert os.listdir() == ["taken.txt"]


def train_words(data: str, out: Path, *more: str) -> str:
    """What a training of two steps says."""
    return _run(
        "train", "nano", "--data", data, "--out", str(out), "--steps", "2", "--rows", "2", *more
    )


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of twelve pictures."""
    return str(build_shapes(tmp_path_factory.mktemp("few"), range(500, 512), side=48))


def test_few_pictures_get_a_codec_that_fits_them(few: str, tmp_path: Path) -> None:
    said = train_words(few, tmp_path)
    patches = 36 * sum(open_samples(parse_source(few)).counts())
    codec = load_codec(str(tmp_path / "trained-codec.safetensors"))
    assert 16 <= codec.vocabularies[0] <= patches / 4 < 2 * codec.vocabularies[0]
    assert f"a codec of {codec.vocabularies[0]} codes is made of them, not of 2,048" in said


def test_codec_and_vocabulary_serve_the_data_they_were_made_of(few: str, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    train_words(few, out)
    made = {name: (out / name).read_bytes() for name in LEFT}
    shutil.rmtree(out / "checkpoints")
    assert "was made" not in train_words(few, out)
    assert made == {name: (out / name).read_bytes() for name in LEFT}
    # A checkpoint stands on them: other data is its own matter, and they stay.
    other = str(build_shapes(tmp_path / "other", range(600, 612), side=48))
    with pytest.raises(TrainingError, match="other settings"):
        train_words(other, out)
    assert made == {name: (out / name).read_bytes() for name in LEFT}
    # Without one they are made anew, and a line says so.
    shutil.rmtree(out / "checkpoints")
    said = train_words(other, out)
    for name in LEFT:
        assert f"{name} was made of other data; it is made anew" in said
        assert (out / name).read_bytes() != made[name]


def test_a_codec_and_vocabulary_that_do_not_tell_their_data_are_used_as_before(
    few: str, tmp_path: Path
) -> None:
    train_words(few, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "made-of.json").unlink()
    assert train_words(few, tmp_path).count("does not tell which data it was made of") == 2


def test_a_training_says_how_far_it_is_and_where_its_samples_lie(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_log, "_EVERY_S", 0.0)
    said = train_words(world.plain, tmp_path, "--codec", world.codes, "--set", "sample_every=1")
    assert re.search(r"step 1 of 2: loss [\d.]+, [\d,]+ positions/s, \d+ s left", said)
    assert re.search(r"step 2 of 2: loss [\d.]+ \(.*positions/s\n", said)
    sheet = tmp_path / "samples" / "step-00000001.png"
    assert f"what it draws and says now: {sheet}" in said and sheet.exists()


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
