"""Hash, image facts and caption facts against definitions written out here."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from gristmill.errors import ConfigurationError
from gristmill.pipelines import STAGES, stage_class
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.decode import DecodeError, decode_rgb
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.perceptual_hash import PerceptualHash, perceptual_hashes
from gristmill.pipelines.stage import Score


def photo(seed: int = 0, side: int = 80) -> Any:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (9, 9, 3), np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def table(count: int) -> pa.Table:
    return pa.table({"uid": [str(i) for i in range(count)]})


def slow_hash(image: Any) -> int:
    """pHash by cv2's own DCT, bit by bit."""
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)
    low = cv2.dct(grey)[:8, :8].reshape(-1)
    median = np.median(low[1:])
    return int("".join("1" if value > median else "0" for value in low), 2)


def test_the_hash_is_the_definition_s() -> None:
    images = [photo(i) for i in range(20)]
    assert [int(value) for value in perceptual_hashes(images)] == [slow_hash(i) for i in images]


def test_a_block_gives_what_single_pictures_give() -> None:
    images = [photo(i) for i in range(5)]
    for stage in (PerceptualHash(), ImageFacts()):
        together = stage.score(table(5), images)
        alone = [stage.score(table(1), [image]) for image in images]
        assert together.equals(pa.concat_tables(alone))
        assert together.schema == stage.writes()
        assert len(stage.score(table(0), [])) == 0


def test_equal_pixels_and_only_they_have_equal_digests() -> None:
    image = photo()
    other = image.copy()
    other[3, 3, 1] ^= 1
    turned = np.ascontiguousarray(image[:40].reshape(80, 40, 3))
    digests = PerceptualHash().score(table(4), [image, image.copy(), other, turned])["pixel_hash"]
    first, second, third, fourth = digests.to_pylist()
    assert first == second and len({first, third, fourth}) == 3


def facts(image: Any) -> dict[str, Any]:
    found: dict[str, Any] = ImageFacts().score(table(1), [image]).to_pylist()[0]
    return found


def test_image_facts_mean_what_they_say() -> None:
    flat = np.full((50, 100, 3), 128, np.uint8)
    assert facts(flat) == {
        "sharpness": 0, "entropy": 0, "blank_share": 1, "colourfulness": 0, "aspect": 2,
        "contrast": 0, "is_grey": True, "brightness": pytest.approx(128 / 255, abs=1e-5),
    }  # fmt: skip
    half = flat.copy()
    half[:, :40] = 0
    found = facts(half)
    entropy = -(0.4 * np.log2(0.4) + 0.6 * np.log2(0.6))
    assert found["entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["blank_share"] == pytest.approx(0.6)
    sharp = photo(1)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    assert facts(sharp)["sharpness"] > 2 * facts(blurred)["sharpness"]
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, ::2, 0] = 255
    assert facts(red)["colourfulness"] > 50 and not facts(red)["is_grey"]


CAPTIONS: dict[str | None, dict[str, Any]] = {
    "a small red circle": {"caption_words": 4, "caption_chars": 18, "caption_boilerplate": False},
    "赤い円": {"caption_words": 3, "caption_alpha_share": 1.0},
    "don't well-known": {"caption_words": 2},
    "1234 !!": {"caption_alpha_share": 0.0},
    "buy buy buy buy buy": {"caption_repetition": pytest.approx(0.8)},
    "one two three four five": {"caption_repetition": 0.0},
    "Click here to enlarge": {"caption_boilerplate": True},
    "IMG_2043.JPG": {"caption_boilerplate": True},
    "untitled": {"caption_boilerplate": True},
    "a log in the woods": {"caption_boilerplate": False},
    "a stop sign up close": {"caption_boilerplate": False},
    "<b>bold</b> &amp; more": {"caption_markup": True},
    "a <PERSON> at x < y": {"caption_markup": False},
    "see www.example.com": {"caption_url": True},
    "mail me@example.org": {"caption_email": True},
    "call (555) 123-4567": {"caption_phone": True},
    "ISBN 978-3-16-148410-0, 1939-1945": {"caption_phone": False},
    "": {"caption_words": 0, "caption_chars": 0},
    None: {"caption_words": 0, "caption_alpha_share": None, "caption_boilerplate": False},
}


def test_caption_facts() -> None:
    stage = CaptionFacts()
    found = stage(pa.table({"caption": pa.array(list(CAPTIONS), pa.string())})).to_pylist()
    for (caption, expected), row in zip(CAPTIONS.items(), found, strict=True):
        assert {name: row[name] for name in expected} == expected, caption


def test_a_broken_expression_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="boilerplate expression"):
        CaptionFacts(boilerplate=("(",)).check()


@pytest.mark.parametrize("shape", ["grey", "alpha", "deep", "colour"])
def test_every_kind_of_stored_picture_decodes_to_rgb(shape: str) -> None:
    pixels: dict[str, Any] = {
        "grey": photo()[:, :, 0],
        "alpha": np.dstack([photo(), np.zeros((80, 80), np.uint8)]),
        "deep": photo().astype(np.uint16) * 256,
        "colour": photo(),
    }
    data = cv2.imencode(".png", pixels[shape])[1].tobytes()
    decoded = decode_rgb(data)
    assert decoded.dtype == np.uint8 and decoded.shape == (80, 80, 3)
    if shape == "alpha":
        assert (decoded == 255).all(), "what is transparent is white"
    if shape == "colour":
        assert np.array_equal(decoded, photo()[:, :, ::-1])
    with pytest.raises(DecodeError):
        decode_rgb(b"nothing")


def test_every_stage_keeps_the_contract() -> None:
    """Frozen dataclasses that can be made, checked, described and fingerprinted without effort."""
    import dataclasses
    import pickle

    from gristmill.dags.engine.fingerprint import stage_identity

    for name in STAGES:
        cls = stage_class(name)
        stage = cls(embeddings=False) if issubclass(cls, ClipScore) else cls()
        assert dataclasses.is_dataclass(stage) and cls.__dataclass_params__.frozen
        assert all(field.kw_only for field in dataclasses.fields(stage))
        assert pickle.loads(pickle.dumps(stage)) == stage
        assert cls.__doc__ and len(cls.__doc__) > 30
        assert stage_identity(stage)["libraries"] is not None
        assert stage.needs().cpus > 0
        for field in stage.writes():
            assert not pa.types.is_null(field.type)
        if isinstance(stage, Score) and not isinstance(stage, ClipScore):
            kinds = {"image_embedding": pa.list_(pa.float16(), 8)}
            columns = [(c, kinds.get(c, pa.string())) for c in stage.reads()]
            empty = pa.schema(columns).empty_table()
            scores = stage.score(empty, [] if stage.media else None)
            assert scores.schema == stage.writes() and len(scores) == 0
