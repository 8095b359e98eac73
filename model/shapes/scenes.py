"""A world of shapes: scenes whose content is known, pictures of them, and true captions.

Objects lie in the cells of a 2x2 grid, the small ones jittered, on textured grounds like those of
photographs, every scene's its own: flat grounds would make unrelated scenes collide under a
perceptual hash. Everything about a scene follows from its seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.decode import Image

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "bar", "ring")
SIZES = ("small", "large")
COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 70),
    "blue": (40, 80, 210),
    "yellow": (240, 205, 40),
    "purple": (140, 50, 170),
    "white": (245, 245, 245),
    "orange": (245, 130, 20),
    "cyan": (40, 205, 215),
    "pink": (250, 140, 190),
    "black": (15, 15, 15),
    "lime": (150, 230, 50),
    "brown": (110, 60, 20),
}
# Radius of an object as a share of the picture's side.
_RADIUS = {"small": 0.13, "large": 0.22}
# Objects stand on a lattice of this step, as a share of the side: a codec of a few pixels' patches
# then meets each object in few ways.
JITTER = 1 / 12
_CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
# Objects of a scene, at most: what captions and the parser know how to tell.
MOST = 2
# Bits of a fraction of a pixel that cv2 draws with.
_SHIFT = 4


@dataclass(frozen=True)
class World:
    """Which shapes and colours there are, and the (colour, shape) pairs that training leaves
    out."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    held_out: tuple[tuple[str, str], ...]

    @property
    def without_held_out(self) -> str:
        """For `DataSource.where`: samples whose captions name no held-out pair."""
        pairs = "|".join(f"{colour} {shape}" for colour, shape in self.held_out)
        return f"NOT regexp_matches(caption, '{pairs}')"


SMALL = World(
    SHAPES[:4],
    tuple(COLOURS)[:6],
    (("red", "star"), ("green", "circle"), ("blue", "triangle"), ("yellow", "square")),
)
"""The world of the demos: 24 pairs."""
WIDE = World(SHAPES, tuple(COLOURS), SMALL.held_out)
"""96 pairs: each colour is met with many shapes, so that pairs can be told from what they are made
of."""


@dataclass(frozen=True)
class Thing:
    """One object. `cell` is (row, column); the centre lies jittered within it, in 0..1."""

    shape: str
    size: str
    colour: str
    cell: tuple[int, int]
    centre: tuple[float, float]

    @property
    def name(self) -> str:
        """As a caption says it."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One or two objects, in reading order, on a ground that is drawn from `seed`."""

    seed: int
    things: tuple[Thing, ...]

    @property
    def content(self) -> frozenset[tuple[str, str]]:
        """(colour, shape) of each object."""
        return frozenset((thing.colour, thing.shape) for thing in self.things)


def make_scene(seed: int, most: int = MOST, world: World = SMALL) -> Scene:
    """The scene of a seed, with one object, or up to `most` of them."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    count = int(rng.integers(1, most + 1))
    cells = rng.permutation(len(_CELLS))[:count]
    things = []
    for index in cells:
        row, column = _CELLS[int(index)]
        size = SIZES[int(rng.integers(len(SIZES)))]
        steps = int((0.25 - _RADIUS[size]) / JITTER)
        jitter = rng.integers(-steps, steps + 1, 2) * JITTER
        centre = (0.25 + 0.5 * column + float(jitter[0]), 0.25 + 0.5 * row + float(jitter[1]))
        shape = world.shapes[int(rng.integers(len(world.shapes)))]
        colour = world.colours[int(rng.integers(len(world.colours)))]
        things.append(Thing(shape, size, colour, (row, column), centre))
    return Scene(seed, tuple(sorted(things, key=lambda thing: thing.cell)))


def draw(scene: Scene, side: int = 256) -> Image:
    """A picture of a scene, `side` pixels square."""
    rng = np.random.Generator(np.random.PCG64([scene.seed, 2]))
    picture = _ground(rng, side)
    for thing in scene.things:
        _draw_thing(picture, thing)
    return picture


def _ground(rng: np.random.Generator, side: int) -> Image:
    """Noise of two scales in muted colours, like an unfocused wall, lawn or sky."""
    light = np.zeros((side, side), np.float32)
    for octave, strength in ((7, 1.0), (80, 0.5)):
        noise = rng.normal(0, 1, (octave, octave)).astype(np.float32)
        light += strength * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    light = (light - light.mean()) / max(float(light.std()), 1e-6)
    tint = rng.uniform(-10, 10, 3).astype(np.float32)
    tilt = rng.normal(0, 7, (3, 3, 3)).astype(np.float32)
    colour = cv2.resize(tilt, (side, side), interpolation=cv2.INTER_CUBIC)
    values = rng.uniform(100, 130) + 13 * light[:, :, None] + tint
    values += colour
    return np.asarray(np.clip(values, 25, 215, out=values), np.uint8)


def _draw_thing(picture: Image, thing: Thing) -> None:
    side = picture.shape[0]
    mask = draw_mask(thing.shape, reach(thing.size), thing.centre, side)
    left, top, width, height = cv2.boundingRect(mask)
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha = mask[rows, columns].astype(np.float32)[:, :, None] / 255
    colour = np.array(COLOURS[thing.colour], np.float32) * shade(side)[rows, None, None]
    mixed = picture[rows, columns] * (1 - alpha) + np.clip(colour, 0, 255) * alpha
    picture[rows, columns] = np.rint(mixed).astype(np.uint8)


def reach(size: str) -> float:
    """Radius of an object as a share of the picture's side."""
    return _RADIUS[size]


def shade(side: int) -> NDArray[np.float32]:
    """A little light from above, [side], so that no object is one flat colour."""
    return np.linspace(1.06, 0.88, side, dtype=np.float32)


def draw_mask(
    shape: str, radius: float, centre: tuple[float, float], side: int, pad: int = 0
) -> NDArray[np.uint8]:
    """Cover of a shape, 0..255, [side + 2 pad] squared; radius and centre as shares of the side,
    `pad` in pixels."""
    mask: Any = np.zeros((side + 2 * pad,) * 2, np.uint8)
    middle = (centre[0] * side + pad, centre[1] * side + pad)
    if shape == "circle":
        place = tuple(round(value * 2**_SHIFT) for value in middle)
        cv2.circle(mask, place, round(radius * side * 2**_SHIFT), 255, -1, cv2.LINE_AA, _SHIFT)
    elif shape == "ring":
        place = tuple(round(value * 2**_SHIFT) for value in middle)
        for part, value in ((1.1, 255), (0.5, 0)):
            reach_of = round(part * radius * side * 2**_SHIFT)
            cv2.circle(mask, place, reach_of, value, -1, cv2.LINE_AA, _SHIFT)
    else:
        corners = _corners(shape) * radius * side + middle
        points = np.round(corners * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, _SHIFT)
    return np.asarray(mask)


def _corners(shape: str) -> NDArray[np.float64]:
    """Corners around the origin, [n, 2]."""
    if shape == "cross":
        arm = np.array([(0.38, 0.38), (1.1, 0.38), (1.1, -0.38)])
        quarter = np.array([(0, -1), (1, 0)])
        return np.concatenate([arm @ np.linalg.matrix_power(quarter, n) for n in range(4)])
    if shape == "bar":
        return np.array([(-1.2, -0.4), (1.2, -0.4), (1.2, 0.4), (-1.2, 0.4)])
    if shape == "square":
        angles, radii = np.arange(4) * np.pi / 2 + np.pi / 4, np.full(4, 1.15)
    elif shape == "diamond":
        angles, radii = np.arange(4) * np.pi / 2, np.full(4, 1.2)
    elif shape == "triangle":
        angles, radii = np.arange(3) * 2 * np.pi / 3 - np.pi / 2, np.full(3, 1.2)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 1.15, 0.46)
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None])


def relation(first: Thing, second: Thing) -> str:
    """How the first lies to the second, by their cells; rows go before columns."""
    if first.cell[0] != second.cell[0]:
        return "above" if first.cell[0] < second.cell[0] else "below"
    return "left of" if first.cell[1] < second.cell[1] else "right of"


def captions(scene: Scene) -> list[str]:
    """True captions in several phrasings; the first is the canonical one, in reading order."""
    if len(scene.things) == 1:
        name = scene.things[0].name
        return [
            f"a {name}",
            f"there is a {name}",
            f"a photo of a {name}",
            f"one {name} on a textured ground",
            f"a {name} and nothing else",
        ]
    first, second = scene.things
    forward = f"a {first.name} {relation(first, second)} a {second.name}"
    backward = f"a {second.name} {relation(second, first)} a {first.name}"
    return [
        forward,
        f"there is {forward}",
        f"a photo of {forward}",
        f"this shows {backward}",
        f"two shapes: a {first.name} and a {second.name}",
    ]


def caption(scene: Scene, phrasing: int) -> str:
    """One of the true captions."""
    choices = captions(scene)
    return choices[phrasing % len(choices)]


def wrong_caption(scene: Scene, rng: np.random.Generator, most: int = MOST) -> str:
    """A fluent caption of another scene of at most as many objects, none of which is in this
    one."""
    while True:
        other = make_scene(int(rng.integers(2**40, 2**41)), most)
        if not other.content & scene.content:
            return caption(other, int(rng.integers(5)))
