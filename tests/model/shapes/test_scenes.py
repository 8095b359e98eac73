"""The world of shapes: its captions are true, its pictures tell scenes apart."""

from __future__ import annotations

import re

import numpy as np

from gristmill.model.shapes.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    captions,
    draw,
    make_scene,
    relation,
    wrong_caption,
)
from gristmill.pipelines.images.perceptual_hash import perceptual_hashes

_NAMES = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def test_a_seed_is_a_scene_and_a_picture() -> None:
    assert make_scene(7) == make_scene(7) != make_scene(8)
    assert np.array_equal(draw(make_scene(7), 64), draw(make_scene(7), 64))
    assert draw(make_scene(7), 64).shape == (64, 64, 3)


def test_every_caption_names_exactly_what_is_there() -> None:
    for seed in range(200):
        scene = make_scene(seed)
        there = sorted((t.size, t.colour, t.shape) for t in scene.things)
        for text in captions(scene):
            assert sorted(_NAMES.findall(text)) == there, text


def test_canonical_captions_name_things_in_reading_order() -> None:
    scenes = [make_scene(seed) for seed in range(200)]
    for scene in scenes:
        assert list(scene.things) == sorted(scene.things, key=lambda thing: thing.cell)
    pairs = [captions(scene) for scene in scenes if len(scene.things) == 2]
    assert all(re.search(" (left of|above) ", texts[0]) for texts in pairs)
    # One phrasing says it the other way round.
    assert all(re.search(" (right of|below) ", texts[3]) for texts in pairs)


def test_relations_are_those_of_the_picture() -> None:
    words = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
    for seed in range(300):
        scene = make_scene(seed)
        if len(scene.things) == 2:
            first, second = scene.things
            axis, sign = words[relation(first, second)]
            assert np.sign(first.centre[axis] - second.centre[axis]) == sign


def test_objects_are_drawn_in_their_colours_where_they_are_said_to_be() -> None:
    for seed in range(60):
        scene = make_scene(seed)
        picture = draw(scene, 128)
        for thing in scene.things:
            x, y = (round(value * 128) for value in thing.centre)
            distance = np.abs(picture[y, x].astype(int) - COLOURS[thing.colour]).max()
            assert distance < 50, (seed, thing)


def test_a_wrong_caption_shares_no_object_with_the_scene() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        scene = make_scene(seed)
        named = {(colour, shape) for _, colour, shape in _NAMES.findall(wrong_caption(scene, rng))}
        assert named and not named & scene.content


def test_unrelated_scenes_do_not_collide() -> None:
    hashes = perceptual_hashes([draw(make_scene(i), 96) for i in range(300)])
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    # The same objects on a lattice, on grounds of one scale: a few pairs are near by chance, and
    # candidates are compared by colour after this.
    assert (distances[np.triu_indices(300, 1)] > 8).mean() > 0.9997
