"""The parser reads what is there, and nothing into what is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.shapes.parser import SIDE, agrees, read_caption, read_pictures, shows
from gristmill.model.shapes.questions import is_existence, questions, wide_questions
from gristmill.model.shapes.scenes import WIDE, Scene, captions, draw, make_scene

SCENES = [make_scene(88_000_000 + i) for i in range(300)]
# Of them, where reading is slow.
FEW = 100


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    return np.stack([resize_center_crop(draw(scene, 256), SIDE) for scene in SCENES])


def _right(pictures: np.ndarray) -> float:
    read = read_pictures(pictures.astype(np.uint8))
    scenes = SCENES[: len(pictures)]
    return float(np.mean([shows(r, s) for r, s in zip(read, scenes, strict=True)]))


def test_clean_pictures_are_read(views: np.ndarray) -> None:
    assert _right(views) >= 0.99


def test_jpeg_and_noise_do_not_matter(views: np.ndarray) -> None:
    some = SCENES[:FEW]
    files = [cv2.imencode(".jpg", draw(s, 256), [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for s in some]
    decoded = [resize_center_crop(cv2.imdecode(f, cv2.IMREAD_COLOR), SIDE) for f in files]
    assert _right(np.stack(decoded)) >= 0.97
    views = views[:FEW]
    noise = np.random.default_rng(0).normal(0, 6, views.shape)
    assert _right(np.clip(views + noise, 0, 255)) >= 0.97


def test_rubbish_is_invalid_and_never_guessed(views: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    views = views[:FEW]
    rubbish = {
        "noise": rng.integers(0, 256, views.shape),
        "mixtures": (views.astype(int) + views[::-1]) // 2,
        "blurred": np.stack([cv2.GaussianBlur(v, (0, 0), 2) for v in views]),
        "grounds": np.stack(
            [resize_center_crop(draw(Scene(s.seed, ()), 256), SIDE) for s in SCENES[:FEW]]
        ),
    }
    for name, pictures in rubbish.items():
        valid = [r is not None for r in read_pictures(pictures.astype(np.uint8))]
        assert np.mean(valid) <= 0.05, name


def test_other_prompts_are_not_read_from_a_picture(views: np.ndarray) -> None:
    read = read_pictures(views)
    others = [*SCENES[1:], SCENES[0]]
    assert np.mean([shows(r, s) for r, s in zip(read, others, strict=True)]) <= 0.02


def test_the_wide_world_is_read_as_well() -> None:
    """Every shape and colour of it, and no picture of a ground alone."""
    scenes = [make_scene(77_000_000 + i, world=WIDE) for i in range(80)]
    pairs = {pair for scene in scenes for pair in scene.content}
    assert [len({pair[i] for pair in pairs}) for i in range(2)] == [12, 8]
    pictures = np.stack([resize_center_crop(draw(scene, 256), SIDE) for scene in scenes])
    read = read_pictures(pictures, WIDE)
    assert np.mean([shows(r, s) for r, s in zip(read, scenes, strict=True)]) >= 0.98
    grounds = [resize_center_crop(draw(Scene(s.seed, ()), 256), SIDE) for s in scenes[:40]]
    assert sum(r is not None for r in read_pictures(np.stack(grounds), WIDE)) <= 2
    for scene in scenes[:20]:
        for question, answer in wide_questions(captions(scene)[0]):
            if is_existence(question):
                colour, shape = question.removesuffix("?").split()[-2:]
                assert ((colour, shape) in scene.content) == (answer == "yes")


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 3\)"):
        read_pictures(np.zeros((1, 8, 8, 3), np.uint8))


def test_captions_are_read_and_judged() -> None:
    for scene in SCENES[:100]:
        for text in captions(scene):
            assert agrees(read_caption(text), scene.things), text
    assert read_caption("a nice day") is None and not agrees(None, SCENES[0].things)
    pair = next(s for s in SCENES if len(s.things) == 2 and len({t.name for t in s.things}) == 2)
    text = captions(pair)[0]
    swapped = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    word = next(word for word in swapped if word in text)
    assert not agrees(read_caption(text.replace(word, swapped[word])), pair.things)


def test_answers_are_true() -> None:
    for scene in SCENES:
        things = {(thing.colour, thing.shape) for thing in scene.things}
        for question, answer in questions(captions(scene)[2]):
            words = question.rstrip("?").split(" ")
            if is_existence(question):
                assert ((words[-2], words[-1]) in things) == (answer == "yes")
            elif question.startswith("how many"):
                assert answer == ("one", "two")[len(scene.things) - 1]
            elif "colour" in question:
                assert [t.colour for t in scene.things if t.shape == words[-1]] == [answer]
            elif "size" in question:
                assert [t.size for t in scene.things if t.shape == words[-1]] == [answer]
            else:
                assert [t.shape for t in scene.things if t.colour == words[-1]] == [answer]
    assert questions("something else") == []
