"""The world of shapes in time: clips in which a shape moves, edits that recolour one, stories that
come back to one. Everything follows from a seed, and what must be seen at the end is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gristmill.model.shapes.scenes import SMALL, Scene, Thing, captions, draw, make_scene
from gristmill.pipelines.decode import Image

# (row, column) of a step.
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_ORDINALS = ("first", "second")


@dataclass(frozen=True)
class Change:
    """A scene, what is said of it, and the scene that must follow."""

    before: Scene
    text: str
    after: Scene


def make_motion(seed: int) -> Change:
    """A clip of two moments: one shape moves into an empty neighbouring cell."""
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    number = seed
    while True:
        scene = make_scene(number)
        taken = {thing.cell for thing in scene.things}
        steps = [
            (thing, word, (thing.cell[0] + step[0], thing.cell[1] + step[1]))
            for thing in scene.things
            for word, step in DIRECTIONS.items()
        ]
        free = [
            (thing, word, cell)
            for thing, word, cell in steps
            if cell not in taken and 0 <= cell[0] < 2 and 0 <= cell[1] < 2
        ]
        if free and _told_apart(scene):
            thing, word, cell = free[int(rng.integers(len(free)))]
            shift = tuple(0.5 * (new - old) for new, old in zip(cell, thing.cell, strict=True))
            centre = (thing.centre[0] + shift[1], thing.centre[1] + shift[0])
            moved = replace(thing, cell=cell, centre=centre)
            text = f"{captions(scene)[0]}. the {thing.name} moves {word}"
            return Change(scene, text, _with(scene, thing, moved))
        # The seeds of other scenes are far away.
        number += 10**15


def make_edit(seed: int) -> Change:
    """A recolouring of one shape, with the instruction."""
    rng = np.random.Generator(np.random.PCG64([seed, 6]))
    number = seed
    while not _told_apart(make_scene(number)):
        number += 10**15
    scene = make_scene(number)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    others = [colour for colour in SMALL.colours if colour != thing.colour]
    colour = others[int(rng.integers(len(others)))]
    text = f"make the {thing.colour} {thing.shape} {colour}"
    return Change(scene, text, _with(scene, thing, replace(thing, colour=colour)))


def _told_apart(scene: Scene) -> bool:
    """Whether colour and shape name each thing."""
    return len({(thing.colour, thing.shape) for thing in scene.things}) == len(scene.things)


def _with(scene: Scene, old: Thing, new: Thing) -> Scene:
    """The same ground, one thing changed."""
    things = [new if thing == old else thing for thing in scene.things]
    return Scene(scene.seed, tuple(sorted(things, key=lambda thing: thing.cell)))


def draw_motion(motion: Change, frames: int, side: int) -> list[Image]:
    """A clip: at rest for three tenths, moving for four, at rest for three."""
    pictures = []
    olds = {thing.cell: thing for thing in motion.before.things}
    pairs = []
    for thing in motion.after.things:
        start = olds.get(thing.cell)
        if start is None:
            start = next(t for cell, t in olds.items() if cell not in _cells(motion.after))
        pairs.append((start, thing))
    for frame in range(frames):
        share = min(max((frame / max(frames - 1, 1) - 0.3) / 0.4, 0.0), 1.0)
        things = tuple(
            replace(
                new,
                centre=(
                    old.centre[0] + share * (new.centre[0] - old.centre[0]),
                    old.centre[1] + share * (new.centre[1] - old.centre[1]),
                ),
            )
            for old, new in pairs
        )
        pictures.append(draw(Scene(motion.before.seed, things), side))
    return pictures


def _cells(scene: Scene) -> set[tuple[int, int]]:
    return {thing.cell for thing in scene.things}


@dataclass(frozen=True)
class Story:
    """Texts, each followed by a picture; the last picture shows what an earlier one showed."""

    texts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    # Number of the picture that the last text comes back to.
    recalled: int

    @property
    def places(self) -> list[int]:
        """Number of texts before each picture."""
        return list(range(1, len(self.scenes) + 1))


def make_story(seed: int) -> Story:
    """Two shapes are shown, then one of them again, elsewhere and on another ground."""
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    things: list[Thing] = []
    number = seed
    while len(things) < 2:
        thing = make_scene(number).things[0]
        if all((thing.colour, thing.shape) != (t.colour, t.shape) for t in things):
            things.append(thing)
        number += 10**15
    recalled = int(rng.integers(2))
    again = things[recalled]
    cell = (int(rng.integers(2)), int(rng.integers(2)))
    moved = replace(
        again,
        cell=cell,
        centre=(0.25 + 0.5 * cell[1], 0.25 + 0.5 * cell[0]),
    )
    scenes = [Scene(seed + i * 10**14, (thing,)) for i, thing in enumerate([*things, moved])]
    texts = (
        f"first a {things[0].name}",
        f"then a {things[1].name}",
        f"and again the {_ORDINALS[recalled]}",
    )
    return Story(texts, tuple(scenes), recalled)


def shows_at(things: Sequence[Thing] | None, scene: Scene) -> bool:
    """Whether a read picture shows exactly the things of a scene, each in its cell."""
    if things is None:
        return False
    read = sorted((thing.cell, thing.name) for thing in things)
    return read == sorted((thing.cell, thing.name) for thing in scene.things)
