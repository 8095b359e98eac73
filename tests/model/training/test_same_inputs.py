"""A training goes on with what it began with, or says what became another thing."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from foreign_tars import write_tar
from model_world import World

from gristmill.errors import TrainingError
from gristmill.model.data.tar_samples import TarSamples
from gristmill.model.training.sample_history import sightings
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog


def _train(config: TrainConfig) -> None:
    train(config, TrainLog(config.out, quiet=True))


@pytest.fixture(scope="module")
def begun(world: World, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training that sees through an encoder, stopped after a step."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(world.encoder.removeprefix("local-dir:"), folder / "clip")
    shutil.copy(world.latents, folder / "codec.safetensors")
    made = world.config(
        folder / "out", "flow-semantic", steps=1, save_every=1,
        codec=str(folder / "codec.safetensors"), encoder=f"local-dir:{folder / 'clip'}",
    )  # fmt: skip
    _train(made)
    return made


def _other_codec(config: TrainConfig) -> Path:
    return Path(config.codec)


def _other_tokenizer(config: TrainConfig) -> Path:
    return Path(config.out, "tokenizer.json")


def _other_encoder(config: TrainConfig) -> Path:
    return next(Path(config.encoder.removeprefix("local-dir:")).glob("*.safetensors"))


@pytest.mark.parametrize(
    ("place", "name"),
    [(_other_codec, "codec"), (_other_tokenizer, "tokenizer"), (_other_encoder, "encoder")],
)
def test_another_input_is_refused_by_name(
    begun: TrainConfig, place: Callable[[TrainConfig], Path], name: str
) -> None:
    path = place(begun)
    before = path.read_bytes()
    path.write_bytes(_altered(before))
    longer = dataclasses.replace(begun, steps=2)
    try:
        with pytest.raises(TrainingError, match=f"trained with another {name} than") as raised:
            _train(longer)
        assert "\n" not in str(raised.value) and "another --out" in str(raised.value)
        assert f"{name} became" in sightings(begun.out, []).unknown
    finally:
        path.write_bytes(before)


def _altered(data: bytes) -> bytes:
    """The same kind of file of the same size with another content: a number in its last values, or
    a word of a vocabulary."""
    if data[:1] == b"{":
        facts = json.loads(data)
        facts["model"]["merges"] = facts["model"]["merges"][:-1]
        facts["model"]["vocab"].pop(max(facts["model"]["vocab"], key=facts["model"]["vocab"].get))
        return json.dumps(facts).encode()
    return data[:-4] + np.float32(0.5).tobytes()


def test_the_same_inputs_elsewhere_are_the_same(begun: TrainConfig, tmp_path: Path) -> None:
    shutil.copytree(begun.out, tmp_path / "out")
    shutil.copy(begun.codec, tmp_path / "moved.safetensors")
    tokenizer = str(tmp_path / "out" / "tokenizer.json")
    moved = {"codec": str(tmp_path / "moved.safetensors"), "tokenizer": tokenizer}
    _train(dataclasses.replace(begun, out=str(tmp_path / "out"), steps=2, **moved))


def test_a_tar_written_anew_is_told_from_the_former_though_sizes_are_the_same(
    tmp_path: Path,
) -> None:
    pictures = [np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8) for i in range(2)]
    files = []
    for pixels in pictures:
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
        files.append(buffer.getvalue())
    assert len(files[0]) == len(files[1])

    def digest(picture: bytes, text: bytes, folder: str = "a") -> str:
        write_tar(tmp_path / folder / "0.tar", [("0.png", picture), ("0.txt", text)])
        return TarSamples(str(tmp_path / folder)).digest

    first = digest(files[0], b"a dog")
    assert digest(files[0], b"a dog", "elsewhere") == first
    assert len({first, digest(files[1], b"a dog"), digest(files[0], b"a cat")}) == 3
