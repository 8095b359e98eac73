"""Patterns and colours spelt apart: pairs that training never saw need no code of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import to_unit
from gristmill.model.codecs.patches import KMeansCodec, RawPatches
from gristmill.model.codecs.registry import load_codec, never_met, save_codec, train_codec
from gristmill.model.codecs.two_colours import TwoColourCodec
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.shapes.scenes import draw
from gristmill.model.shapes.suite import codes_never_met, suite_scenes

_COLOURS = ((214, 40, 40), (44, 160, 70), (40, 80, 210))


def _halves(tilts: tuple[int, ...], colours: tuple[int, ...]) -> torch.Tensor:
    """Patches of 4 px, four to a picture, half of one colour and half ground, cut at an angle."""
    y, x = np.mgrid[:4, :4] - 1.5
    pictures = []
    for tilt in tilts:
        cover = np.clip(np.cos(tilt) * x + np.sin(tilt) * y + 0.5, 0, 1)[..., None]
        for colour in colours:
            for ground in range(100, 130, 3):
                patch = cover * np.array(_COLOURS[colour]) + (1 - cover) * ground
                pictures.append(np.tile(np.rint(patch).astype(np.uint8), (2, 2, 1)))
    order = np.random.default_rng(0).permutation(len(pictures))
    return torch.from_numpy(np.stack(pictures)[order])


def test_a_new_pair_of_edge_and_colour_is_spelt_with_codes_that_were_met() -> None:
    """Edges at six angles; the third colour is seen with three of them, judged on the others.
    The codec sees all, as that of a run does: what a model never met is what counts."""
    seen = torch.cat([_halves((0, 1, 2, 3, 4, 5), (0, 1)), _halves((0, 1, 2), (2,))])
    new = _halves((3, 4, 5), (2,))
    everything = torch.cat([seen, new])
    shares = {}
    for codec in (
        KMeansCodec(side=8, patch=4, sizes=(18,)),
        TwoColourCodec(side=8, patch=4, sizes=(6, 18)),
    ):
        train_codec(codec, everything)
        met, judged = codec.encode(to_unit(seen)), codec.encode(to_unit(new))
        shares[codec.kind] = never_met(codec.vocabularies, met, judged)
    assert shares["kmeans"][0] > 0.9
    assert max(shares["two-colour"]) < 0.05


def test_it_comes_back_from_its_file_and_adds_its_parts(tmp_path: Path) -> None:
    pictures = _halves((0, 1, 2, 3), (0, 1, 2))
    codec = TwoColourCodec(side=8, patch=4, sizes=(24, 12))
    train_codec(codec, pictures)
    assert codec.ceiling["psnr"] > 25
    save_codec(codec, str(tmp_path / "codec"))
    again = load_codec(str(tmp_path / "codec"))
    unit = to_unit(pictures)
    codes = codec.encode(unit)
    assert codes.shape == (len(pictures), 2, 2, 2) and again.vocabularies == (24, 12)
    assert torch.equal(again.encode(unit), codes)
    assert [len(book) for book in codec.code_features()] == [24, 12]
    # Each pixel lies between the two colours, where the pattern says.
    decoded = codec.decode(codes)[:, :, :4, :4]
    first, second = codec.palettes[codes[:, 0, 0, 1]].split(3, dim=1)
    share = codec.patterns[codes[:, 0, 0, 0]].reshape(-1, 1, 4, 4)
    between = first[..., None, None] * (1 - share) + second[..., None, None] * share
    assert torch.allclose(decoded, between.clamp(-1, 1), atol=1e-6)
    assert codec.patterns.amin() == 0 and codec.patterns.amax() == 1


def test_codes_that_were_never_met_are_counted_by_codebook() -> None:
    met = torch.tensor([[0, 3], [1, 3]]).reshape(1, 1, 2, 2)
    judged = torch.tensor([[0, 0], [2, 3], [2, 3], [1, 3]]).reshape(1, 2, 2, 2)
    assert never_met((3, 4), met, judged) == (0.5, 0.25)


def test_it_wants_two_sizes_and_patches_enough() -> None:
    with pytest.raises(ConfigurationError, match="patterns and colours"):
        TwoColourCodec(sizes=(8,))
    with pytest.raises(ConfigurationError, match="patches for"):
        train_codec(TwoColourCodec(side=8, sizes=(9999, 4)), _halves((0,), (0,)))


def test_held_out_pairs_of_the_little_world_need_no_code_of_their_own() -> None:
    seen, held_out = suite_scenes(120, 0, most=1)
    pictures = torch.from_numpy(
        np.stack([resize_center_crop(draw(scene, 96), 24) for scene in [*seen, *held_out]])
    )
    whole = train_codec(KMeansCodec(sizes=(256,)), pictures)
    apart = train_codec(TwoColourCodec(sizes=(64, 64)), pictures)
    (before,) = codes_never_met(whole, seen, held_out)
    assert before > 0.05 and max(codes_never_met(apart, seen, held_out)) < 0.02
    assert apart.ceiling["psnr"] > whole.ceiling["psnr"] - 1.5
    assert codes_never_met(train_codec(RawPatches(), pictures), seen, held_out) == []
