"""Codecs give back what they were given, as far as they say."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.autoencoders import FsqCodec, VaeCodec
from gristmill.model.codecs.base import Codec, to_bytes, to_unit
from gristmill.model.codecs.patches import KMeansCodec, RawPatches, WhitenedPatches
from gristmill.model.codecs.registry import (
    CodecTraining,
    load_codec,
    measure,
    save_codec,
    train_codec,
)
from gristmill.model.shapes.scenes import draw, make_scene

PICTURES = torch.from_numpy(np.stack([draw(make_scene(i), 24) for i in range(120)]))
MADE = {
    "kmeans": lambda: KMeansCodec(side=24, patch=4, sizes=(128, 32)),
    "fsq": lambda: FsqCodec(side=24, patch=4, width=16, blocks=1, levels=((4, 4), (8, 5))),
    "vae": lambda: VaeCodec(side=24, patch=4, width=16, blocks=1, latent=6),
    "packed vae": lambda: VaeCodec(side=24, patch=4, width=16, blocks=1, latent=6, latent_patch=2),
    "raw": lambda: RawPatches(side=24, patch=4),
    "pca": lambda: WhitenedPatches(side=24, patch=4, components=12),
}


@functools.cache
def _trained(kind: str) -> Codec:
    return train_codec(MADE[kind](), PICTURES, CodecTraining(steps=60, batch_size=32, bf16=False))


@pytest.mark.parametrize("kind", MADE)
def test_a_codec_comes_back_from_its_file_the_same(kind: str, tmp_path: Path) -> None:
    codec = _trained(kind)
    path = str(tmp_path / "codec.safetensors")
    save_codec(codec, path)
    again = load_codec(path)
    unit = to_unit(PICTURES[:8])
    with torch.no_grad():
        grid = codec.encode(unit)
        assert torch.equal(grid, again.encode(unit))
        assert torch.equal(codec.decode(grid), again.decode(grid))
    assert grid.shape[:3] == (8, 6, 6)
    if codec.discrete:
        assert grid.dtype == torch.int64 and grid.shape[3] == len(codec.vocabularies)
        assert (grid.amax(dim=(0, 1, 2)) < torch.tensor(codec.vocabularies)).all()
        features = codec.code_features()
        assert [len(book) for book in features] == list(codec.vocabularies)
    else:
        assert grid.shape[3] == codec.channels
        assert 0.5 < float(grid.std()) < 2
    assert again.ceiling == codec.ceiling and codec.ceiling["psnr"] > 12


def test_raw_patches_lose_nothing_and_ceilings_say_what_is_lost() -> None:
    unit = to_unit(PICTURES)
    raw = _trained("raw")
    assert torch.equal(to_bytes(raw.decode(raw.encode(unit))), PICTURES)
    one, two = (
        KMeansCodec(side=24, patch=4, sizes=(64,)),
        KMeansCodec(side=24, patch=4, sizes=(64, 64)),
    )
    few = measure(train_codec(one, PICTURES), unit)["psnr"]
    more = measure(train_codec(two, PICTURES), unit)["psnr"]
    assert more > few + 1


def test_codes_of_fsq_are_its_digits() -> None:
    codec = FsqCodec(side=24, patch=4, width=16, blocks=1, levels=((3, 2), (5,)))
    every = torch.cartesian_prod(torch.arange(6), torch.arange(5)).reshape(1, 5, 6, 2)
    features = [book[every[..., i]] for i, book in enumerate(codec.code_features())]
    expected = codec._up(torch.cat(features, dim=-1)).clamp(-1, 1)
    assert torch.allclose(codec.decode(every), expected, atol=1e-6)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a multiple"):
        KMeansCodec(side=25, patch=4)
    with pytest.raises(ConfigurationError, match="not a multiple of a latent_patch"):
        VaeCodec(side=24, patch=3, latent_patch=2)
    with pytest.raises(ConfigurationError, match="pictures of shape"):
        train_codec(RawPatches(side=32, patch=4), PICTURES)
    with pytest.raises(ConfigurationError, match="patches for"):
        train_codec(KMeansCodec(side=24, patch=4, sizes=(9999,)), PICTURES)
    with pytest.raises(ConfigurationError, match="train-codec"):
        load_codec(str(tmp_path / "none"))
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="not a codec file"):
        load_codec(str(broken))


@pytest.mark.parametrize("kind", MADE)
def test_a_codec_takes_pictures_of_any_multiple_of_its_patch(kind: str) -> None:
    codec = _trained(kind)
    scene = to_unit(torch.from_numpy(draw(make_scene(3), 48))[None])
    for height, width in ((24, 24), (24, 40), (48, 12), (4, 8)):
        grid = codec.encode(scene[:, :, :height, :width])
        assert grid.shape[:3] == (1, height // codec.patch, width // codec.patch)
        assert grid.shape[3] == (len(codec.vocabularies) or codec.channels)
        assert codec.decode(grid).shape == (1, 3, height, width)
    with pytest.raises(ConfigurationError, match="26x24 px: sides must be multiples of 4 px"):
        codec.encode(scene[:, :, :24, :26])


@pytest.mark.parametrize("kind", ["kmeans", "raw", "pca"])
def test_a_patch_has_the_same_place_in_a_picture_of_any_ratio(kind: str) -> None:
    codec = _trained(kind)
    scene = to_unit(torch.from_numpy(draw(make_scene(3), 48))[None])
    whole = codec.encode(scene)
    part = codec.encode(scene[:, :, 8:28, 4:44])
    assert torch.equal(whole[:, 2:7, 1:11], part)
    assert torch.equal(codec.decode(whole)[:, :, 8:28, 4:44], codec.decode(part))
