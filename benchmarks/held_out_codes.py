"""Held-out (colour, shape) pairs of the world of shapes: which of their codes training never meets.

python benchmarks/held_out_codes.py            # every codec of codes on 4,000 scenes; minutes
python benchmarks/held_out_codes.py --wide     # of the world of 12 colours and 8 shapes

A codec is fitted to all scenes, as that of a run is; training sees those without the pairs. Judged
are the patches at the edges of objects of the pairs: a share of .7 says that seven in ten of them
are spelt with a code that no model can have learnt. The ceiling is the share of scenes that are
read right from the codec's own reconstruction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from gristmill.model.codecs.base import Codec, to_unit
from gristmill.model.codecs.patches import KMeansCodec
from gristmill.model.codecs.registry import never_met, train_codec
from gristmill.model.codecs.two_colours import TwoColourCodec
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.shapes.parser import SIDE
from gristmill.model.shapes.scenes import (
    SMALL,
    WIDE,
    Scene,
    World,
    draw,
    draw_mask,
    make_scene,
    reach,
)
from gristmill.model.shapes.suite import codec_ceiling, suite_scenes

_DRAWN_AT = 128
CODECS: dict[str, Callable[[], Codec]] = {
    "kmeans, one book of 2,048": lambda: KMeansCodec(sizes=(2048,)),
    "kmeans, residual, 256 + 256": lambda: KMeansCodec(sizes=(256, 256)),
    "two-colour, 256 + 256": lambda: TwoColourCodec(sizes=(256, 256)),
    "two-colour, 512 + 512": lambda: TwoColourCodec(sizes=(512, 512)),
}


def views(scenes: Sequence[Scene]) -> torch.Tensor:
    """uint8 [n, SIDE, SIDE, 3]."""
    return torch.from_numpy(
        np.stack([resize_center_crop(draw(scene, _DRAWN_AT), SIDE) for scene in scenes])
    )


def edges(scene: Scene, patch: int, world: World) -> np.ndarray:
    """Places [rows, columns] that an object of a held-out pair covers in part."""
    cover = np.zeros((SIDE, SIDE), np.float32)
    for thing in scene.things:
        if (thing.colour, thing.shape) in world.held_out:
            mask = draw_mask(thing.shape, reach(thing.size), thing.centre, 10 * SIDE)
            small = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            cover = np.maximum(cover, small / 255)
    share = cover.reshape(SIDE // patch, patch, SIDE // patch, patch).mean(axis=(1, 3))
    return (share > 0.02) & (share < 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--judged", type=int, default=600)
    parser.add_argument("--wide", action="store_true", help="12 colours and 8 shapes")
    options = parser.parse_args()
    world = WIDE if options.wide else SMALL
    scenes = [make_scene(10**7 + number, world=world) for number in range(options.scenes)]
    pictures = views(scenes)
    trained = torch.tensor([not scene.content & set(world.held_out) for scene in scenes])
    seen, held_out = suite_scenes(options.judged, 0, world=world)
    judged = views(held_out)
    for name, make in CODECS.items():
        codec = train_codec(make(), pictures)
        met = torch.cat([codec.encode(part) for part in to_unit(pictures[trained]).split(256)])
        there = torch.from_numpy(np.stack([edges(scene, codec.patch, world) for scene in held_out]))
        shares = never_met(codec.vocabularies, met, codec.encode(to_unit(judged))[there])
        said = ", ".join(f"{share:.1%}" for share in shares)
        ceilings = [codec_ceiling(codec, scenes, world) for scenes in (seen, held_out)]
        print(f"{name}: never met {said}; PSNR {codec.ceiling['psnr']}, ceilings {ceilings}")


if __name__ == "__main__":
    main()
