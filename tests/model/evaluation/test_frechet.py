"""The Fréchet distance of pictures to real ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.registry import held_out, load_codec, reconstruct
from gristmill.model.evaluation.frechet import ClipTower, frechet_distance
from gristmill.model.training.filter_network import SMALL
from gristmill.model.training.settings import codec_from_shards, picture_views


def test_it_is_the_distance_of_two_normal_distributions() -> None:
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**SMALL).eval()
    open_clip.model.set_model_preprocess_cfg(model, {"mean": [0.5] * 3, "std": [0.25] * 3})
    tower = ClipTower(model, None)
    rng = np.random.default_rng(0)
    sets = [list(rng.integers(low, 256, (90, 24, 24, 3), dtype=np.uint8)) for low in (0, 60)]
    with torch.no_grad():
        features = [tower(tower.pixels(pictures)).double() for pictures in sets]
    means = [rows.mean(dim=0) for rows in features]
    spreads = [torch.cov(rows.T) for rows in features]
    mixed = torch.linalg.eigvals(spreads[0] @ spreads[1]).sqrt().real.sum()
    expected = ((means[0] - means[1]) ** 2).sum() + sum(s.trace() for s in spreads) - 2 * mixed
    assert frechet_distance(sets[0], sets[1], tower) == pytest.approx(float(expected), rel=1e-2)
    same = frechet_distance(sets[0], sets[0], tower)
    assert same == pytest.approx(0, abs=1e-3 * float(expected))


def test_a_codec_says_how_far_its_reconstructions_are(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "codec.safetensors")
    codec_from_shards(
        "pca", [world.plain], out=path, side=24, patch=4, settings=["components=6"],
        fid=world.encoder,
    )  # fmt: skip
    codec = load_codec(path)
    views = picture_views([world.plain], side=24, count=4000)
    test = views[: held_out(views)]
    assert codec.ceiling["rfid_pictures"] == len(test) > 5
    expected = frechet_distance(
        list(test.numpy()), list(reconstruct(codec, test).numpy()), ClipTower.load(world.encoder)
    )
    assert codec.ceiling["rfid"] == pytest.approx(expected, rel=1e-4) and expected > 0


def test_what_it_lacks_is_said() -> None:
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
    with pytest.raises(ConfigurationError, match="two of each"):
        frechet_distance(pictures, pictures[:1])
    if importlib.util.find_spec("torch_fidelity") is None:
        with pytest.raises(ConfigurationError, match="pip install torch-fidelity; or name a CLIP"):
            frechet_distance(pictures, pictures)
