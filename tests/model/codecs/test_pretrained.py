"""Codecs of the diffusers library, with small weights made here: the same as diffusers itself."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.codecs import pretrained
from gristmill.model.codecs.base import to_patches, to_unit
from gristmill.model.codecs.pretrained import PretrainedVae, PretrainedVq
from gristmill.model.codecs.registry import load_codec, save_codec, train_codec
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.training.settings import codec_from_shards
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog

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


@pytest.mark.parametrize("packed", [1, 2])
def test_latents_are_those_of_diffusers_scaled(
    packed: int, sources: dict[str, str], tmp_path: Path
) -> None:
    codec = PretrainedVae(side=24, latent_patch=packed, source=sources["pretrained-vae"])
    train_codec(codec, _pictures())
    unit = to_unit(_pictures())
    theirs = diffusers.AutoencoderKL.from_pretrained(sources["pretrained-vae"]).eval()
    with torch.no_grad():
        expected = theirs.encode(unit).latent_dist.mean
        decoded = theirs.decode(expected).sample.clamp(-1, 1)
    latents = codec.encode(unit)
    places = 6 // packed
    assert codec.patch == 4 * packed and codec.channels == 4 * packed**2
    assert latents.shape == (12, places, places, codec.channels) and codec.grid == (places, places)
    # As FLUX packs them: channels, then rows, then columns of the place.
    whole = (latents * codec.spread + codec.mean).unflatten(-1, (4, packed, packed))
    whole = whole.permute(0, 3, 1, 4, 2, 5).reshape(expected.shape)
    assert torch.allclose(whole, expected, atol=1e-5)
    assert torch.allclose(codec.decode(latents), decoded, atol=1e-4)
    assert 0.8 < float(latents.std()) < 1.2
    save_codec(codec, str(tmp_path / "codec"))
    assert torch.equal(load_codec(str(tmp_path / "codec")).encode(unit), latents)


def test_latents_of_few_pictures_are_those_of_many(
    sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cls in (PretrainedVae, PretrainedVq):
        codec = cls(side=24, source=sources[cls.kind])
        unit = to_unit(_pictures(48)[:5])
        together = codec.encode(unit)
        seen: list[int] = []
        for half in (codec.network.encoder, codec.network.decoder):
            half.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        monkeypatch.setattr(pretrained, "_PIXELS", 2 * 48 * 48)
        apart = codec.encode(unit)
        decoded = codec.decode(apart)
        assert seen == [2, 2, 1, 2, 2, 1]
        monkeypatch.undo()
        assert torch.allclose(apart.float(), together.float(), atol=1e-5)
        assert torch.allclose(decoded, codec.decode(together), atol=1e-5)


def test_a_picture_is_cut_into_tiles_as_diffusers_does_it(sources: dict[str, str]) -> None:
    source = sources["pretrained-vae"]
    codec = PretrainedVae(side=24, tile=32, source=source)
    unit = to_unit(torch.randint(256, (1, 72, 48, 3), dtype=torch.uint8))
    theirs = diffusers.AutoencoderKL.from_pretrained(source, sample_size=32).eval()
    theirs.enable_tiling()
    with torch.no_grad():
        expected = theirs.encode(unit).latent_dist.mean
        decoded = theirs.decode(expected).sample.clamp(-1, 1)
    assert torch.allclose(codec.encode(unit), to_patches(expected, 2), atol=1e-5)
    assert torch.allclose(codec.decode(codec.encode(unit)), decoded, atol=1e-4)
    assert codec.fields()["tile"] == 32
    small = unit[:, :, :32, :24]
    whole = PretrainedVae(side=24, source=source)
    assert torch.equal(codec.encode(small), whole.encode(small))
    with pytest.raises(ConfigurationError, match="a multiple of 16 px"):
        PretrainedVae(side=24, tile=40, source=source)
    with pytest.raises(ConfigurationError, match="write 1 or 2"):
        PretrainedVae(side=24, latent_patch=3, source=source)


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


@pytest.mark.parametrize(
    "form",
    [
        {"lookup_from_codebook": True},
        # Spatial norms have 32 groups.
        {"norm_type": "spatial", "block_out_channels": (32, 32, 32), "norm_num_groups": 32},
    ],
    ids=["lookup", "spatial"],
)
def test_every_form_of_a_vq_model_is_decoded(form: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = diffusers.VQModel(**_SIZES | form, num_vq_embeddings=32, vq_embed_dim=4).eval()
    made.save_pretrained(tmp_path / "vq")
    codec = PretrainedVq(side=24, source=str(tmp_path / "vq"))
    unit = to_unit(_pictures())
    with torch.no_grad():
        expected = made(unit).sample.clamp(-1, 1)
    assert torch.allclose(codec.decode(codec.encode(unit)), expected, atol=1e-4)


_MEMORY = """
import resource, sys, diffusers, torch
from gristmill.model.codecs.pretrained import PretrainedVae
torch.manual_seed(0)
folder, side, tile = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
codec = PretrainedVae(side=256, source=folder, tile=tile)
pictures = torch.rand(3, 3, 256, 256) * 2 - 1
codec.fit(pictures, 0)
grid = codec.encode(torch.rand(1, 3, side, side) * 2 - 1)
assert grid.shape == (1, side // 16, side // 16, codec.channels)
assert codec.decode(grid).shape == (1, 3, side, side)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.drill
@pytest.mark.parametrize("form", ["flux", "sd"])
def test_a_large_picture_goes_through_autoencoders_of_their_shape(
    form: str, tmp_path: Path
) -> None:
    """1024 px, the real down-sampling and attention, in tiles: memory is that of a tile."""
    torch.manual_seed(0)
    shape: dict[str, Any] = (
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False,
         "shift_factor": 0.1159, "scaling_factor": 0.3611, "sample_size": 1024}
        if form == "flux"
        else {"latent_channels": 4, "scaling_factor": 0.18215, "sample_size": 512}
    )  # fmt: skip
    diffusers.AutoencoderKL(
        **shape, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(16, 16, 32, 32),
        layers_per_block=1, norm_num_groups=8,
    ).save_pretrained(tmp_path / form)  # fmt: skip
    peak = {}
    for side, tile in ((256, 0), (1024, 0), (1024, 256)):
        ran = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(tmp_path / form), str(side), str(tile)],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        peak[side, tile] = float(ran.stdout)
    # A layer of the whole picture takes 64 MB, of a tile 4.
    assert peak[1024, 0] < peak[256, 0] + 600
    assert peak[1024, 256] < peak[256, 0] + 100


def test_pictures_of_any_ratio(sources: dict[str, str]) -> None:
    for cls in (PretrainedVae, PretrainedVq):
        codec = cls(side=24, source=sources[cls.kind])
        assert codec.patch == (8 if cls is PretrainedVae else 4)
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
