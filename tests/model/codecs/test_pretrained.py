"""Codecs of the diffusers library, with small weights made here: the same as diffusers itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.codecs.base import to_unit
from gristmill.model.codecs.pretrained import PretrainedVae, PretrainedVq
from gristmill.model.codecs.registry import load_codec, save_codec, train_codec
from gristmill.model.sampling import Sampling
from gristmill.model.settings import codec_from_shards
from gristmill.model.train import train
from gristmill.model.train_log import TrainLog

_SIZES: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Folders as `save_pretrained` of diffusers writes them."""
    torch.manual_seed(0)
    networks = {
        "pretrained-vae": diffusers.AutoencoderKL(**_SIZES),
        "pretrained-vq": diffusers.VQModel(**_SIZES, num_vq_embeddings=32, vq_embed_dim=4),
    }
    for name, network in networks.items():
        network.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in networks}


def _pictures(side: int = 24) -> torch.Tensor:
    return torch.randint(256, (12, side, side, 3), dtype=torch.uint8)


def test_latents_are_those_of_diffusers_scaled(sources: dict[str, str], tmp_path: Path) -> None:
    codec = PretrainedVae(side=24, source=sources["pretrained-vae"])
    train_codec(codec, _pictures())
    unit = to_unit(_pictures())
    theirs = diffusers.AutoencoderKL.from_pretrained(sources["pretrained-vae"]).eval()
    with torch.no_grad():
        expected = theirs.encode(unit).latent_dist.mean
        decoded = theirs.decode(expected).sample.clamp(-1, 1)
    latents = codec.encode(unit)
    assert latents.shape == (12, 6, 6, 4) and codec.grid == (6, 6)
    whole = (latents * codec.spread + codec.mean).permute(0, 3, 1, 2)
    assert torch.allclose(whole, expected, atol=1e-5)
    assert torch.allclose(codec.decode(latents), decoded, atol=1e-4)
    assert 0.8 < float(latents.std()) < 1.2
    save_codec(codec, str(tmp_path / "codec"))
    assert torch.equal(load_codec(str(tmp_path / "codec")).encode(unit), latents)


def test_codes_are_those_of_diffusers(sources: dict[str, str], tmp_path: Path) -> None:
    codec = train_codec(PretrainedVq(side=24, source=sources["pretrained-vq"]), _pictures())
    unit = to_unit(_pictures())
    theirs = diffusers.VQModel.from_pretrained(sources["pretrained-vq"]).eval()
    with torch.no_grad():
        expected = theirs(unit).sample.clamp(-1, 1)
    codes = codec.encode(unit)
    assert codes.shape == (12, 6, 6, 1) and codec.vocabularies == (32,)
    assert torch.allclose(codec.decode(codes), expected, atol=1e-4)
    assert codec.code_features()[0].shape == (32, 4)
    save_codec(codec, str(tmp_path / "codec"))
    assert torch.equal(load_codec(str(tmp_path / "codec")).encode(unit), codes)


def test_pictures_of_any_ratio(sources: dict[str, str]) -> None:
    for cls in (PretrainedVae, PretrainedVq):
        codec = cls(side=24, source=sources[cls.kind])
        for rows, columns in ((6, 6), (4, 9), (11, 3)):
            size = (rows * codec.patch, columns * codec.patch)
            grid = codec.encode(torch.rand(2, 3, *size) * 2 - 1)
            assert grid.shape[:3] == (2, rows, columns)
            assert codec.decode(grid).shape == (2, 3, *size)
        with pytest.raises(ConfigurationError, match="multiples of"):
            codec.encode(torch.zeros(1, 3, 24, 25))


def test_a_model_trains_on_pretrained_codecs(
    sources: dict[str, str], world: World, tmp_path: Path
) -> None:
    for kind, paradigm in (("pretrained-vq", "ar"), ("pretrained-vae", "flow")):
        path = str(tmp_path / f"{kind}.safetensors")
        codec_from_shards(
            kind, [world.plain], out=path, side=24, pictures=20,
            settings=[f"source={sources[kind]}"],
        )  # fmt: skip
        config = world.config(tmp_path / f"out-{kind}", paradigm, codec=path, steps=2)
        source = dataclasses.replace(config.data[0], url=world.plain)
        train(dataclasses.replace(config, data=(source,)), TrainLog(config.out, quiet=True))
        model = load(config.out)
        assert model.generate("a red star", Sampling(steps=2))[0].shape == (24, 24, 3)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="source=FOLDER"):
        PretrainedVae(side=24)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        PretrainedVae(side=24, source=str(tmp_path))
