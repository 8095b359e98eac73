"""Reads pictures and captions of the world of shapes back into what they show and say.

Pictures are read by explaining every pixel: a smooth ground, and in each cell the best of all
shapes, sizes, colours and places. A picture that is not explained well is *invalid*; it is
never guessed at, so that a model cannot score by drawing something vaguely right.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gristmill.model.shapes.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    SMALL,
    Scene,
    Thing,
    World,
    draw_mask,
    reach,
    relation,
    shade,
)

SIDE = 24
"""Pixels of a side of the trainer's view."""

Floats = NDArray[np.float32]

# Templates are drawn this much larger and averaged down, as pictures are.
_FINE = 8
_HALF = SIDE // 2
# Pixels around a cell into which an object may reach.
_MARGIN = 2
_WINDOW = _HALF + 2 * _MARGIN
# Calibrated on clean pictures: objects gain over 1,300 and .85 of what they could; lumps of the
# ground mostly less than .58.
_PRESENT = 600.0
_FULL = 0.74
_ROUNDS = (0.45, 0.6, _FULL)
# Pixels between the places tried, finer than the lattice of the world.
_STEP = 0.5
# Grounds vary in light far more than in tint: standard deviations in grey levels.
_LIGHT_NOISE, _TINT_NOISE = 14.0, 4.0
# The best explanation must beat the best one of another name by this share of its gain.
_CLEAR = 0.002
# Squared residual above which a picture is not explained: mean of all, and of any 3x3 pixels.
_EXPLAINED, _EXPLAINED_SPOT = 30.0, 700.0

_THING = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
_RELATION = re.compile(r" (left of|right of|above|below) ")


@dataclass(frozen=True)
class Said:
    """What a caption says: the names in their order, and how the first lies to the second."""

    names: tuple[str, ...]
    relation: str | None


def read_caption(text: str) -> Said | None:
    """What a caption says, or None if it does not name one or two objects."""
    names = tuple(" ".join(found) for found in _THING.findall(text))
    if not 1 <= len(names) <= 2:
        return None
    found = _RELATION.search(text)
    return Said(names, found.group(1) if found and len(names) == 2 else None)


def agrees(said: Said | None, things: Sequence[Thing] | None) -> bool:
    """Whether a caption names exactly the objects of a scene, and states no false relation."""
    if said is None or things is None:
        return False
    if sorted(said.names) != sorted(thing.name for thing in things):
        return False
    if said.relation is None:
        return True
    first, second = things
    orders = [(first, second), (second, first)]
    return any((a.name, b.name) == said.names and _holds(said.relation, a, b) for a, b in orders)


def _holds(word: str, first: Thing, second: Thing) -> bool:
    """Whether the first lies so to the second; both hold for things that lie diagonally."""
    rows, columns = first.cell[0] - second.cell[0], first.cell[1] - second.cell[1]
    return {"left of": columns < 0, "right of": columns > 0, "above": rows < 0, "below": rows > 0}[
        word
    ]


@dataclass(frozen=True)
class _Templates:
    """All ways an object may lie in the cell at (0, 0): masks over the window, 0..1."""

    masks: Floats  # [t, window * window]
    squares: Floats  # [t, window * window]
    shapes: NDArray[np.int64]  # [t]
    sizes: NDArray[np.int64]  # [t]
    centres: Floats  # [t, 2], in 0..1 of the picture


@functools.cache
def _templates(world: World) -> _Templates:
    masks, shapes, sizes, centres = [], [], [], []
    fine = SIDE * _FINE
    for size_index, size in enumerate(SIZES):
        slack = 0.25 - reach(size)
        count = 1 + 2 * round(slack * SIDE / _STEP)
        places = np.linspace(-slack, slack, count) + 0.25
        for shape_index, shape in enumerate(world.shapes):
            for x, y in itertools.product(places, places):
                # Room around, as a shape may reach over the picture's edge.
                mask = draw_mask(shape, reach(size), (x, y), fine, _MARGIN * _FINE)
                small = cv2.resize(
                    mask[: _WINDOW * _FINE, : _WINDOW * _FINE],
                    (_WINDOW, _WINDOW),
                    interpolation=cv2.INTER_AREA,
                )
                masks.append(small.reshape(-1))
                shapes.append(shape_index)
                sizes.append(size_index)
                centres.append((x, y))
    stacked: Floats = np.asarray(np.stack(masks) / np.float32(255), np.float32)
    return _Templates(
        stacked,
        np.asarray(stacked**2, np.float32),
        np.array(shapes),
        np.array(sizes),
        np.array(centres, np.float32),
    )


@functools.cache
def _whitening() -> Floats:
    """[3, 3]: makes light count less than tint, as grounds vary in it."""
    ones = np.ones((3, 3)) / 3
    inverse = ones / _LIGHT_NOISE + (np.eye(3) - ones) / _TINT_NOISE
    return np.asarray(inverse, np.float32)


@functools.cache
def _quadratics() -> Floats:
    """Quadratics over the picture, [pixels, 6], orthonormal."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].reshape(2, -1)
    basis = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1)
    return np.asarray(np.linalg.qr(basis)[0], np.float32)


def read_pictures(
    pictures: NDArray[np.uint8], world: World = SMALL
) -> list[tuple[Thing, ...] | None]:
    """What each picture of a world shows, None where it cannot be explained.

    `pictures`: uint8 RGB, [n, SIDE, SIDE, 3], as `view` gives them.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"pictures of shape {pictures.shape}; [n, {SIDE}, {SIDE}, 3] are read")
    found: list[tuple[Thing, ...] | None] = []
    for start in range(0, len(pictures), 64):
        found += _read(pictures[start : start + 64], world)
    return found


def _read(pictures: NDArray[np.uint8], world: World) -> list[tuple[Thing, ...] | None]:
    n = len(pictures)
    pixels = pictures.reshape(n, -1, 3).astype(np.float32) @ _whitening()
    covered = np.zeros((n, SIDE * SIDE), np.float32)
    objects = np.zeros_like(pixels)
    best: list[_Fit] = []
    # Easily satisfied at first, as the ground is still pulled by objects that are not yet found.
    for full in _ROUNDS:
        ground = _ground(pixels, covered)
        # What the objects of the other cells explain is taken out before a cell is looked at.
        best = [
            _fit_cell(pixels, ground, objects, covered, cell, best, full, world)
            for cell in range(4)
        ]
        covered, objects = _painted(best, ground, world, full)
    ground = _ground(pixels, covered)
    covered, objects = _painted(best, ground, world)
    residual = ((pixels - ground - objects) ** 2).sum(axis=2)
    return [_things(i, best, residual[i], world) for i in range(n)]


@dataclass
class _Fit:
    """The best object in one cell of each picture."""

    cell: int
    template: NDArray[np.int64]  # [n]
    colour: NDArray[np.int64]  # [n]
    gain: Floats  # [n]: improvement over no object
    runner_up: Floats  # [n]: of the best explanation of another shape, size or colour
    fullness: Floats  # [n]: gain by that of a perfect picture of the same object; 1 is perfect

    def present(self, full: float = _FULL) -> NDArray[np.bool_]:
        """[n]: whether there is an object at all, and not a lump of the ground."""
        return np.asarray((self.gain > _PRESENT) & (self.fullness > full))


def _ground(pixels: Floats, covered: Floats) -> Floats:
    """A quadratic fit to what no object covers; pixels far from it count less and less."""
    basis = _quadratics()
    weight = np.clip(1 - 1.5 * covered, 0, 1) ** 2
    centre = np.median(pixels, axis=1, keepdims=True)
    far = ((pixels - centre) ** 2).sum(axis=2)
    for _ in range(6):
        robust = weight / (1 + (far / 6) ** 2)
        normal = np.einsum("np,pi,pj->nij", robust, basis, basis) + 1e-4 * np.eye(6)
        right = np.einsum("np,pi,npc->nic", robust, basis, pixels)
        fitted = basis @ np.linalg.solve(normal, right)
        far = ((pixels - fitted) ** 2).sum(axis=2)
    return np.asarray(fitted, np.float32)


def _colour_rows(world: World) -> Floats:
    """Whitened colours at every row, [colours, SIDE, 3]."""
    base = np.array([COLOURS[name] for name in world.colours], np.float32)
    rows = shade(SIDE)[None, :, None] * base[:, None]
    return np.asarray(np.clip(rows, 0, 255) @ _whitening(), np.float32)


def _window(cell: int, values: Floats) -> Floats:
    """[n, pixels, c] -> [n, window * window, c] around a cell; nothing lies beyond the edge."""
    n, _, channels = values.shape
    padded = np.pad(
        values.reshape(n, SIDE, SIDE, channels),
        ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)),
    )
    top, left = (cell // 2) * _HALF, (cell % 2) * _HALF
    return padded[:, top : top + _WINDOW, left : left + _WINDOW].reshape(n, -1, channels)


def _fit_cell(
    pixels: Floats,
    ground: Floats,
    objects: Floats,
    covered: Floats,
    cell: int,
    before: list[_Fit],
    full: float,
    world: World,
) -> _Fit:
    """Best template and colour: residual r, colour step d; gain = 2 <m, r.d> - <m^2, d.d>."""
    n = len(pixels)
    own_mask, own = np.zeros_like(covered), np.zeros_like(objects)
    if before:
        own_mask, own = _painted([before[cell]], ground, world, full)
    rest = pixels - ground - (objects - own)
    free = np.clip(1 - (covered - own_mask), 0, 1)[:, :, None]
    inside = _window(cell, np.ones((1, SIDE * SIDE, 1), np.float32))
    templates = _templates(world)
    gains = np.empty((n, len(world.colours), len(templates.shapes)), np.float32)
    perfect = np.empty_like(gains)
    residual = _window(cell, rest * free)
    for colour, rows in enumerate(_colour_rows(world)):
        target = np.repeat(rows, SIDE, axis=0)[None] - ground
        step = _window(cell, target * free) * inside
        first = (residual * step).sum(axis=2)
        second = (step * step).sum(axis=2)
        perfect[:, colour] = second @ templates.squares.T
        gains[:, colour] = 2 * first @ templates.masks.T - perfect[:, colour]
    flat = gains.reshape(n, -1)
    at = flat.argmax(axis=1)
    fullness = flat.max(axis=1) / np.maximum(perfect.reshape(n, -1)[np.arange(n), at], 1e-6)
    colour_at, template_at = np.divmod(at, len(templates.shapes))
    names = (
        np.arange(len(world.colours))[:, None] * 100 + templates.shapes * 10 + templates.sizes
    ).reshape(-1)
    others = np.where(names[None] == names[at][:, None], -np.inf, flat)
    return _Fit(cell, template_at, colour_at, flat.max(axis=1), others.max(axis=1), fullness)


def _painted(
    fits: Sequence[_Fit], ground: Floats, world: World, full: float = _FULL
) -> tuple[Floats, Floats]:
    """Cover, [n, pixels], and what objects add to the ground, [n, pixels, 3]."""
    n = len(ground)
    templates, rows = _templates(world), _colour_rows(world)
    covered = np.zeros((n, SIDE * SIDE), np.float32)
    added = np.zeros_like(ground)
    for fit in fits:
        masks = np.zeros((n, SIDE + 2 * _MARGIN, SIDE + 2 * _MARGIN), np.float32)
        top, left = (fit.cell // 2) * _HALF, (fit.cell % 2) * _HALF
        shown = fit.present(full)[:, None]
        chosen = (templates.masks[fit.template] * shown).reshape(n, _WINDOW, _WINDOW)
        masks[:, top : top + _WINDOW, left : left + _WINDOW] = chosen
        mask = masks[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(n, -1)
        target = np.repeat(rows[fit.colour], SIDE, axis=1)
        added += mask[:, :, None] * (target - ground)
        covered += mask
    return covered, added


def _things(
    i: int, fits: Sequence[_Fit], residual: Floats, world: World
) -> tuple[Thing, ...] | None:
    """The objects of one picture, or None where it is not explained."""
    spots = cv2.blur(residual.reshape(SIDE, SIDE), (3, 3))
    if residual.mean() > _EXPLAINED or spots.max() > _EXPLAINED_SPOT:
        return None
    templates = _templates(world)
    things = []
    for fit in fits:
        if not fit.present()[i]:
            continue
        if fit.gain[i] - fit.runner_up[i] < _CLEAR * fit.gain[i]:
            return None
        template = int(fit.template[i])
        row, column = divmod(fit.cell, 2)
        x, y = templates.centres[template]
        things.append(
            Thing(
                world.shapes[int(templates.shapes[template])],
                SIZES[int(templates.sizes[template])],
                world.colours[int(fit.colour[i])],
                (row, column),
                (float(x) + 0.5 * column, float(y) + 0.5 * row),
            )
        )
    return tuple(things) if 1 <= len(things) <= 2 else None


def shows(things: Sequence[Thing] | None, scene: Scene) -> bool:
    """Whether what was read is what the scene's canonical caption says."""
    if things is None or sorted(t.name for t in things) != sorted(t.name for t in scene.things):
        return False
    if len(scene.things) == 1:
        return True
    first, second = scene.things
    return agrees(Said((first.name, second.name), relation(first, second)), things)
