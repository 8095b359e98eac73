"""The Tokens stage writes what training reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from gristmill.dags.recipes.image_text import ENCODER, image_text
from gristmill.dags.settings import apply_settings
from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import to_unit
from gristmill.model.codecs.patches import KMeansCodec, WhitenedPatches
from gristmill.model.codecs.registry import save_codec, train_codec
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.documents.vocabulary import train_text
from gristmill.model.shapes.scenes import draw, make_scene
from gristmill.pipelines.tokens.tokens import Tokens

IMAGES = [draw(make_scene(i), 40) for i in range(30)]
CAPTIONS = pa.table({"caption": [f"caption {i}" for i in range(29)] + [None]})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("codecs")
    views = torch.from_numpy(np.stack([resize_center_crop(image, 24) for image in IMAGES]))
    paths = {}
    for name, codec in (
        ("codes", KMeansCodec(sizes=(32, 16), patch=6)),
        ("latents", WhitenedPatches(components=4, patch=6)),
    ):
        train_codec(codec, views)
        paths[name] = str(folder / name)
        save_codec(codec, paths[name])
    text = folder / "tokenizer.json"
    text.write_text(train_text(["caption 1", "caption 2"], 300))
    return {**paths, "text": str(text)}


def test_codes_are_those_of_the_codec_and_ids_those_of_the_tokenizer(files: dict[str, str]) -> None:
    from gristmill.model.codecs.registry import load_codec

    stage = Tokens(images=files["codes"], text=files["text"], encoder=ENCODER)
    stage.check()
    found = stage.score(CAPTIONS, IMAGES)
    assert found.schema == stage.writes() and len(found) == 30
    assert found.schema.field("image_codes").type == pa.list_(pa.int32())
    codec = load_codec(files["codes"])
    views = torch.from_numpy(np.stack([resize_center_crop(image, 24) for image in IMAGES]))
    expected = codec.encode(to_unit(views)).reshape(30, -1).tolist()
    assert found["image_codes"].to_pylist() == expected
    assert found["text_tokens"][0] and found["text_tokens"][29].as_py() == []


def test_latents_are_written_as_floats(files: dict[str, str]) -> None:
    stage = Tokens(images=files["latents"], encoder=ENCODER)
    found = stage.score(CAPTIONS, IMAGES)
    assert found.schema.field("image_latents").type == pa.list_(pa.float32())
    assert {len(row) for row in found["image_latents"].to_pylist()} == {64}


def test_it_is_left_out_until_it_is_given_files(files: dict[str, str]) -> None:
    plain = apply_settings(image_text(path="x.parquet"), [])
    assert "tokens" not in plain.nodes and plain.nodes["shards"].inputs == ("keep",)
    with_codes = apply_settings(image_text(path="x.parquet"), [f"tokens.images={files['codes']}"])
    assert with_codes.nodes["shards"].inputs == ("tokens",)
    assert "image_codes" in with_codes.columns("shards").names
    with_codes.validate()


def test_what_is_missing_is_named(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"no file at nowhere.*train-codec"):
        Tokens(images="nowhere", encoder=ENCODER).check()
    with pytest.raises(ConfigurationError, match="nothing to do"):
        Tokens(encoder=ENCODER).check()
    with pytest.raises(ConfigurationError, match=r"package.module:name"):
        Tokens(images=files["codes"], encoder="nothing").prepare()
    (tmp_path / "bad").write_text(json.dumps({"no": "tokenizer"}))
    with pytest.raises(ConfigurationError, match="not a tokenizers file"):
        Tokens(text=str(tmp_path / "bad"), encoder=ENCODER).prepare()
