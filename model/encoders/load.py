"""Semantic encoders by name: of open_clip, or a folder as transformers writes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from gristmill.errors import ConfigurationError, MissingWeightsError, nearest
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.encoders.names import Weights, from_open_clip, from_timm, from_transformers
from gristmill.model.encoders.vit import VisionTransformer
from gristmill.model.encoders.whole import WholeTower, fine_layer

_LOCAL = "local-dir:"
_GREY = (0.5, 0.5, 0.5)
# What their names for activations are here.
_ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}  # fmt: skip
# How the libraries bring tables of positions to another grid.
_RESIZES = {"siglip": "bicubic", "siglip2": "bilinear-antialias", "clip": "bicubic"}


@dataclass(frozen=True)
class LoadedEncoder:
    """A tower's shape and its weights."""

    config: VisionConfig
    weights: dict[str, Tensor]


def check_encoder(name: str) -> None:
    """Raise `ConfigurationError` for a name that can be no encoder's: of a folder that is not
    there, or a model or weights that open_clip does not list."""
    if name.startswith(_LOCAL):
        folder = name.removeprefix(_LOCAL)
        if not os.path.isdir(folder):
            raise ConfigurationError(f"encoder {name!r}: there is no folder {folder}")
        return
    architecture, _, pretrained = name.partition("/")
    if not pretrained:
        raise ConfigurationError(f"encoder {name!r}: write MODEL/PRETRAINED or local-dir:FOLDER")
    import open_clip

    _require(f"encoder {name!r}: model", architecture, open_clip.list_models())
    known = open_clip.list_pretrained_tags_by_model(architecture)
    # A file of weights may be named as well, and open_clip takes - for _.
    if not os.path.exists(pretrained) and pretrained.lower().replace("-", "_") not in known:
        _require(f"encoder {name!r}: weights", pretrained, known)


def _require(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigurationError(f"{what} {name!r}: {nearest(name, known)}")


def make_tower(config: VisionConfig) -> VisionTransformer | WholeTower:
    """The tower of a configuration, without its weights."""
    return WholeTower(config) if config.whole else VisionTransformer(config)


def load_encoder(name: str) -> LoadedEncoder:
    """The encoder of a name.

    "local-dir:FOLDER" of an open_clip model, or of a SigLIP, SigLIP 2 or CLIP as transformers
    writes it (config.json and *.safetensors); "MODEL/PRETRAINED" as open_clip lists them
    ("ViT-B-16-SigLIP/webli"). Raises `MissingWeightsError` where the weights are not to be had.
    """
    check_encoder(name)
    folder = name.removeprefix(_LOCAL)
    ours = os.path.join(folder, "open_clip_config.json")
    if name.startswith(_LOCAL) and not os.path.exists(ours):
        return _of_transformers(name, folder)
    return _of_open_clip(name)


def _of_open_clip(name: str) -> LoadedEncoder:
    import open_clip

    architecture, _, pretrained = name.partition("/")
    local = name.startswith(_LOCAL)
    try:
        model = open_clip.create_model(
            name if local else architecture,
            pretrained=None if local else pretrained,
            require_pretrained=True,
        )
    except Exception as error:
        raise MissingWeightsError(f"encoder {name!r}: {error}") from error
    visual = model.visual.eval().requires_grad_(False)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = visual.image_size
    side = int(size[0] if isinstance(size, tuple | list) else size)
    mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
    with torch.no_grad():
        noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        expected = fine_layer(visual, noise)
    width, rows, columns = (int(n) for n in expected.shape[1:])
    if side % rows:
        raise ConfigurationError(
            f"encoder {name!r} makes {rows} rows of {side} px, which are no whole patches; choose "
            "another"
        )
    config = VisionConfig(
        name=name, digest="", patch=side // rows, grid=(rows, columns), width=width, mean=mean,
        std=std,
    )  # fmt: skip
    found = _as_plain(visual, config, noise, expected)
    if found is None:
        whole = _open_clip_config(name, local, architecture)
        weights = {f"visual.{key}": value for key, value in visual.state_dict().items()}
        found = LoadedEncoder(dataclasses.replace(config, whole=json.dumps(whole)), weights)
    return _with_digest(found)


def _as_plain(
    visual: Any, config: VisionConfig, noise: Tensor, expected: Tensor
) -> LoadedEncoder | None:
    """The tower as a plain transformer, if it is one: its names fit, and it sees the same."""
    trunk = getattr(visual, "trunk", None)
    weights = (visual if trunk is None else trunk).state_dict()
    layer = (
        next(iter(getattr(visual.transformer, "resblocks", [])), None)
        if trunk is None and hasattr(visual, "transformer")
        else next(iter(getattr(trunk, "blocks", [])), None)
    )
    if layer is None:
        return None
    try:
        taken = from_open_clip(weights) if trunk is None else from_timm(weights)
        heads = layer.attn.num_heads
        activation = layer.mlp.gelu if trunk is None else layer.mlp.act
        config = _shaped(config, taken, heads=heads, activation=_activation(activation))
        eps = layer.ln_1.eps if trunk is None else layer.norm1.eps
        tower = VisionTransformer(dataclasses.replace(config, norm_eps=eps, unit=False))
        tower.load_state_dict(taken)
    except (KeyError, AttributeError, RuntimeError, ValueError):
        return None
    with torch.no_grad():
        # Noise in the units of the tower, as pixels would be after its own scaling.
        patches = _patches_of(noise[0].permute(1, 2, 0), config.patch).flatten(0, 1)
        seen = _plain_features(tower, patches, config.grid)
    there = expected[0].permute(1, 2, 0).flatten(0, 1)
    if not torch.allclose(seen, there, atol=1e-3, rtol=1e-3):
        return None
    return LoadedEncoder(dataclasses.replace(config, norm_eps=eps), taken)


def _activation(module: nn.Module) -> str:
    name = type(module).__name__
    if name == "QuickGELU":
        return "quick_gelu"
    if name in ("GELU", "GELUTanh"):
        tanh = name == "GELUTanh" or getattr(module, "approximate", "none") == "tanh"
        return "gelu_tanh" if tanh else "gelu"
    raise ValueError(name)


def _plain_features(tower: VisionTransformer, values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features of values that are scaled already."""
    scaled = dataclasses.replace(tower.config, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tower.config = scaled
    found: Tensor = tower(values * 255, [grid])
    return found


def _shaped(config: VisionConfig, weights: Weights, **more: Any) -> VisionConfig:
    """The sizes that weights tell."""
    layers = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("layers."))
    table = weights["positions"]
    return dataclasses.replace(
        config,
        grid=(table.shape[0], table.shape[1]),
        width=table.shape[2],
        layers=layers,
        feed_forward=len(weights["layers.0.up.weight"]),
        class_token="class_token" in weights,
        patch_bias="patch_in.bias" in weights,
        pre_norm="pre_norm.weight" in weights,
        final_norm="norm.weight" in weights,
        layer_scale="layers.0.scale1" in weights,
        **more,
    )


def _open_clip_config(name: str, local: bool, architecture: str) -> dict[str, Any]:
    import open_clip

    if not local:
        return dict(open_clip.get_model_config(architecture))
    path = os.path.join(name.removeprefix(_LOCAL), "open_clip_config.json")
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file)["model_cfg"])


def _of_transformers(name: str, folder: str) -> LoadedEncoder:
    """A SigLIP, SigLIP 2 or CLIP of a folder with config.json and *.safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            facts = json.load(file)
        files = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))
        weights: dict[str, Tensor] = {}
        for one in files:
            weights |= load_file(os.path.join(folder, one))
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise MissingWeightsError(
            f"encoder {name!r}: {error}; give a folder of open_clip (open_clip_config.json), or "
            "config.json and *.safetensors of a SigLIP or CLIP"
        ) from error
    family = str(facts.get("model_type", "")).removesuffix("_vision_model")
    _require(f"encoder {name!r}: model_type", family, _RESIZES)
    vision = facts.get("vision_config", facts)
    try:
        taken = from_transformers(weights)
    except (KeyError, ValueError):
        raise MissingWeightsError(
            f"encoder {name!r}: its *.safetensors hold no vision tower of {family}"
        ) from None
    mean, std = _preprocessing(folder, family)
    config = VisionConfig(
        name=name, digest="", patch=int(vision.get("patch_size", 16)), grid=(1, 1), width=1,
        mean=mean, std=std, resize=_RESIZES[family],
        norm_eps=float(vision.get("layer_norm_eps", 1e-6 if family != "clip" else 1e-5)),
    )  # fmt: skip
    act = str(vision.get("hidden_act", "quick_gelu" if family == "clip" else "gelu_pytorch_tanh"))
    _require(f"encoder {name!r}: hidden_act", act, _ACTIVATIONS)
    heads = int(vision.get("num_attention_heads", 12))
    config = _shaped(config, taken, heads=heads, activation=_ACTIVATIONS[act])
    return _with_digest(LoadedEncoder(config, taken))


def _preprocessing(
    folder: str, family: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of channels, as the folder says or as the family has them."""
    path = os.path.join(folder, "preprocessor_config.json")
    facts: dict[str, Any] = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
    usual = (_GREY, _GREY)
    if family == "clip":
        usual = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    mean, std = facts.get("image_mean", usual[0]), facts.get("image_std", usual[1])
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _with_digest(found: LoadedEncoder) -> LoadedEncoder:
    """The same, with the digest of its weights."""
    whole = hashlib.sha256()
    for name in sorted(found.weights):
        whole.update(name.encode())
        whole.update(found.weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    config = dataclasses.replace(found.config, digest=whole.hexdigest()[:16])
    return LoadedEncoder(config, found.weights)


def _patches_of(picture: Tensor, patch: int) -> Tensor:
    """[h, w, 3] -> [rows, columns, patch * patch * 3]."""
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    parts = picture.reshape(rows, patch, columns, patch, 3).permute(0, 2, 1, 3, 4)
    return parts.reshape(rows, columns, -1)


def patchify(picture: NDArray[np.uint8], patch: int) -> UInt8[np.ndarray, "rows columns values"]:
    """RGB of whole patches as a tower takes it: the pixels of each patch, [row, column, channel]
    flattened."""
    found: NDArray[np.uint8] = _patches_of(torch.from_numpy(picture), patch).numpy()
    return found
