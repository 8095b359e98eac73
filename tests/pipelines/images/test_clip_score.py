"""CLIP scores equal a plain open_clip loop; a filter network learns and loads like any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import constants
from loopback import Loopback

from gristmill.errors import ConfigurationError, MissingWeightsError
from gristmill.pipelines.images import clip_weights
from gristmill.pipelines.images.clip_score import ClipScore

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model: its configuration, and its weights as .pt and as open_clip's folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    (folder / "tiny-test-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(str(folder / "tiny-test-clip.json"))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**TINY)
    torch.save(model.state_dict(), folder / "weights.pt")
    preprocess = {"mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.27]}
    config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def pictures(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40 + i, 50, 3), np.uint8) for i in range(count)]


def test_scores_equal_a_plain_loop(tiny: Path) -> None:
    import open_clip
    import PIL.Image
    import torch

    images, captions = pictures(9), [f"a picture of {i}" for i in range(9)]
    stage = ClipScore(
        model=str(tiny / "tiny-test-clip.json"),
        pretrained=str(tiny / "weights.pt"),
        batch_size=4,
        threads=1,
    )
    stage.check()
    found = stage.score(pa.table({"caption": captions}), images)
    assert found.schema == stage.writes()
    model, _, transform = open_clip.create_model_and_transforms(
        "tiny-test-clip", pretrained=str(tiny / "weights.pt")
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer("tiny-test-clip")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        with torch.no_grad():
            first = model.encode_image(transform(PIL.Image.fromarray(image))[None])
            second = model.encode_text(tokenizer([caption]))
        cosine = torch.nn.functional.cosine_similarity(first, second).item()
        assert found["clip_score"][i].as_py() == pytest.approx(cosine, abs=1e-3)
        embedding = np.array(found["image_embedding"][i].as_py(), np.float32)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-2)


def test_a_folder_loads_too_and_no_caption_is_no_score(tiny: Path) -> None:
    stage = ClipScore(model=f"local-dir:{tiny}", embeddings=False)
    stage.check()
    assert str(tiny) in stage.files()
    found = stage.score(pa.table({"caption": ["a", None]}), pictures(2))["clip_score"].to_pylist()
    assert found[0] is not None and found[1] is None
    assert len(stage.score(pa.table({"caption": pa.array([], pa.string())}), [])) == 0


def test_weights_that_are_missing_are_refused_before_any_work(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="near: ViT-B-32"):
        ClipScore(model="ViT-B32").check()
    for asked in (ClipScore.check_weights, ClipScore.weights):
        with pytest.raises(ConfigurationError, match=r"'openal'; did you mean 'openai'.* are: op"):
            asked(ClipScore(pretrained="openal"))
    assert "not in the cache here, to be downloaded" in ClipScore().weights()[0]
    with pytest.raises(MissingWeightsError, match="give another path"):
        ClipScore(pretrained="/nowhere/weights.pt").check()
    with pytest.raises(MissingWeightsError, match=r"open_clip_config\.json"):
        ClipScore(model="local-dir:/nowhere").check()
    (tmp_path / "open_clip_config.json").write_bytes((tiny / "open_clip_config.json").read_bytes())
    with pytest.raises(MissingWeightsError, match="holds no weights"):
        ClipScore(model=f"local-dir:{tmp_path}").check()
    # A file, or a folder, needs no hub.
    ClipScore(model=f"local-dir:{tiny}").check_weights()
    assert ClipScore(model=f"local-dir:{tiny}").weights() == ()


def test_a_hub_is_asked_once_and_what_it_has_is_taken(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(clip_weights, "ANSWER_S", 0.2)
    hub = ClipScore(model="hf-hub:a/b")
    for stage in (ClipScore(), hub):
        with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE forbids"):
            stage.check_weights()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for url in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        for stage in (ClipScore(), hub):
            with pytest.raises(MissingWeightsError, match=f"{url} does not answer"):
                stage.check_weights()
    # There, but without this model: said once, and no page is asked for again and again.
    monkeypatch.setattr(constants, "ENDPOINT", server.url(""))
    template = server.url("/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(MissingWeightsError, match=r"cannot be downloaded .*pretrained=PATH"):
        ClipScore().check_weights()
    asked = [path for path in server.hits if "/resolve/" in path]
    assert len(asked) == len(set(asked)) <= 2, "the hub's client may greet it besides"


def test_a_filter_network_learns_and_scores(tmp_path: Path) -> None:
    from gristmill.model.shapes.scenes import caption, draw, make_scene
    from gristmill.model.training.filter_network import train_filter_network

    scenes = [make_scene(i) for i in range(96)]
    images = [draw(scene, 64) for scene in scenes]
    captions = [caption(scene, 0) for scene in scenes]
    trained = [
        train_filter_network(
            images, captions, str(tmp_path / name), steps=12, batch_size=32, threads=1
        )
        for name in "ab"
    ]
    assert trained[0].last_loss < trained[0].first_loss
    first, second = (tmp_path / name / "open_clip_model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes(), "the same seed gives the same weights"
    stage = ClipScore(model=f"local-dir:{tmp_path / 'a'}")
    stage.check()
    found = stage.score(pa.table({"caption": captions[:4]}), images[:4])
    assert np.isfinite(found["clip_score"].to_numpy()).all()
    with pytest.raises(ConfigurationError, match="at least one batch"):
        train_filter_network(images[:3], captions[:3], str(tmp_path / "c"))
