"""Vision towers give what the libraries' own give, packed over pictures of any grid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.model.data.image_tokenizer import semantic_grid
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.encoders.load import (
    LoadedEncoder,
    load_encoder,
    make_tower,
    patchify,
)
from gristmill.model.encoders.whole import fine_layer

SMALL = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
}  # fmt: skip
OTHER = [(4, 4), (2, 5), (6, 3), (1, 1), (4, 4)]


def _transformers_folder(folder: Path, family: str) -> Any:
    """A random tower of a family, written as transformers writes it."""
    import transformers

    sizes: dict[str, Any] = {**SMALL, "patch_size": 8}
    sizes |= {"num_patches": 16} if family == "Siglip2" else {"image_size": 32}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}VisionConfig")(**sizes)
    model = getattr(transformers, f"{family}VisionModel")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def _pictures(grids: list[tuple[int, int]], patch: int = 8) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (r * patch, c * patch, 3), np.uint8) for r, c in grids]


def _features(loaded: LoadedEncoder, pictures: list[Any], *, unit: bool = False) -> list[Any]:
    tower = make_tower(dataclasses.replace(loaded.config, unit=unit))
    tower.load_state_dict(loaded.weights)
    patches = [patchify(picture, loaded.config.patch) for picture in pictures]
    grids = [(p.shape[0], p.shape[1]) for p in patches]
    packed = torch.from_numpy(np.concatenate([p.reshape(-1, p.shape[2]) for p in patches]))
    with torch.no_grad():
        return list(tower(packed, grids).split([r * c for r, c in grids]))


def _as_given(picture: Any, config: VisionConfig) -> torch.Tensor:
    unit = (torch.from_numpy(picture).float() / 255 - torch.tensor(config.mean)) / torch.tensor(
        config.std
    )
    return unit.permute(2, 0, 1)[None]


@pytest.mark.parametrize("family", ["Siglip", "Siglip2", "CLIP"])
def test_towers_of_transformers_see_the_same_at_every_grid(tmp_path: Path, family: str) -> None:
    theirs = _transformers_folder(tmp_path, family)
    loaded = load_encoder(f"local-dir:{tmp_path}")
    pictures = _pictures(OTHER)
    ours = _features(loaded, pictures)
    for picture, grid, seen in zip(pictures, OTHER, ours, strict=True):
        with torch.no_grad():
            if family == "Siglip2":
                flat = _as_given(picture, loaded.config)[0].permute(1, 2, 0)
                rows = flat.reshape(grid[0], 8, grid[1], 8, 3).permute(0, 2, 1, 3, 4).flatten(2)
                given = rows.reshape(1, grid[0] * grid[1], -1)
                mask = torch.ones(1, grid[0] * grid[1], dtype=torch.int32)
                expected = theirs(given, mask, torch.tensor([grid])).last_hidden_state[0]
            else:
                given = _as_given(picture, loaded.config)
                out = theirs(given, interpolate_pos_encoding=True).last_hidden_state[0]
                expected = theirs.post_layernorm(out[1:]) if family == "CLIP" else out
        assert torch.allclose(seen, expected, atol=2e-4), (grid, (seen - expected).abs().max())


def _open_clip_folder(folder: Path, vision: dict[str, Any], quick: bool = False) -> None:
    import open_clip

    torch.manual_seed(0)
    sizes = {
        "embed_dim": 16, "quick_gelu": quick, "vision_cfg": vision,
        "text_cfg": {"width": 16, "heads": 2, "layers": 1, "vocab_size": 49408},
    }  # fmt: skip
    model = open_clip.CLIP(**sizes)
    for name, parameter in model.visual.named_parameters():
        if "norm" not in name and "bn" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    config = {"model_cfg": sizes, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


VIT = {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}
TOWERS = {
    "vit": (VIT, False, False),
    "vit quick": (VIT, True, False),
    "vit scaled": ({**VIT, "ls_init_value": 0.5}, False, False),
    # Grouped queries with norms of their own are no plain transformer: it is seen whole.
    "vit normed": ({**VIT, "block_type": "custom", "qk_norm": True}, False, True),
    "resnet": (
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}, False, True,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TOWERS)
def test_towers_of_open_clip_see_the_same(tmp_path: Path, kind: str) -> None:
    import open_clip

    vision, quick, whole = TOWERS[kind]
    _open_clip_folder(tmp_path, vision, quick)
    loaded = load_encoder(f"local-dir:{tmp_path}")
    config = loaded.config
    assert bool(config.whole) == whole and config.mean == (0.4, 0.5, 0.6)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    pictures = _pictures([config.grid] * 3, config.patch)
    for picture, seen in zip(pictures, _features(loaded, pictures), strict=True):
        with torch.no_grad():
            expected = fine_layer(theirs.visual, _as_given(picture, config))
        assert torch.allclose(seen, expected[0].permute(1, 2, 0).flatten(0, 1), atol=2e-4)
    # At unit deviation, as training has them.
    unit = _features(loaded, pictures, unit=True)[0]
    assert torch.allclose(unit, F.layer_norm(_features(loaded, pictures)[0], unit.shape[-1:]))


def test_timm_towers_see_the_same(tmp_path: Path) -> None:
    import timm

    from gristmill.model.encoders.names import from_timm

    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_base_patch16_siglip_224", img_size=32, patch_size=8, embed_dim=24, depth=2,
        num_heads=3, num_classes=0,
    ).eval()  # fmt: skip
    weights = from_timm(theirs.state_dict())
    config = VisionConfig(
        name="x", digest="", patch=8, grid=(4, 4), width=24, mean=(0.5,) * 3, std=(0.5,) * 3,
        layers=2, heads=3, feed_forward=96,
    )  # fmt: skip
    pictures = _pictures([(4, 4)])
    (seen,) = _features(LoadedEncoder(config, weights), pictures)
    with torch.no_grad():
        expected = theirs.forward_features(_as_given(pictures[0], config))[0]
    assert torch.allclose(seen, expected, atol=2e-4)


@pytest.mark.parametrize("family", ["Siglip", "CLIP"])
def test_packed_pictures_do_not_see_each_other_and_gradients_reach_all(
    tmp_path: Path, family: str
) -> None:
    _transformers_folder(tmp_path, family)
    loaded = load_encoder(f"local-dir:{tmp_path}")
    pictures = _pictures(OTHER)
    together = _features(loaded, pictures)
    for picture, seen in zip(pictures, together, strict=True):
        assert torch.allclose(_features(loaded, [picture])[0], seen, atol=1e-5)
    tower = make_tower(loaded.config)
    tower.load_state_dict(loaded.weights)
    patches = torch.from_numpy(patchify(pictures[1], 8)).flatten(0, 1)
    (tower(patches, [OTHER[1]]) ** 3).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in tower.parameters())
    # Without a picture too: a rank that has none must meet the others.
    tower.zero_grad()
    nothing = tower(patches[:0], [])
    assert nothing.shape == (0, 24)
    nothing.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in tower.parameters())


def test_grids_of_towers_are_about_what_they_were_trained_with() -> None:
    config = VisionConfig(
        name="x", digest="", patch=16, grid=(14, 14), width=8, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert semantic_grid(config, (224, 224)) == semantic_grid(config, (50, 50)) == (14, 14)
    assert semantic_grid(config, None) == (14, 14)
    assert semantic_grid(config, (1000, 2000)) == (10, 19)
    assert semantic_grid(dataclasses.replace(config, whole="{}"), (10, 900)) == (14, 14)


def test_what_is_no_encoder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no folder"):
        load_encoder(f"local-dir:{tmp_path}/none")
    with pytest.raises(MissingWeightsError, match=r"config\.json and \*\.safetensors"):
        load_encoder(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigurationError, match=r"model_type.*bert"):
        load_encoder(f"local-dir:{tmp_path}")
