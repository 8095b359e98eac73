"""The demo of interleaved documents: stories that come back to a shape, with planted faults."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gristmill.dags.demos.media import CLEAN, MediaDemo, Planted, World, common_settings, scaled
from gristmill.dags.demos.web_server import Route
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.interleaved import interleaved
from gristmill.dags.settings import apply_settings
from gristmill.pipelines.decode import Image, encode_jpeg

if TYPE_CHECKING:
    from gristmill.model.shapes.changes import Story

_SIDE = 160
_CLEAN = 160
_ENDING = (
    "these are the shapes that were seen on that day, in the order in which they were seen, and "
    "nobody remembers any others"
)
# Fault -> documents that have it, each in one of its pictures or in itself.
PLANTED = {
    "logo of the site": 30, "tiny icon": 12, "dead image": 10, "broken image": 8,
    "blank image": 10, "picture of something else": 16, "no pictures": 8, "all pictures dead": 6,
    "repeated text": 8, "broken json": 4, "not a document": 3,
}  # fmt: skip
CAUGHT_AS: dict[str, tuple[str, ...]] = {
    "logo of the site": ("in many documents",),
    "tiny icon": ("too small",),
    "dead image": ("http 404",),
    "broken image": ("truncated image", "not decodable"),
    "blank image": ("blank",),
    "picture of something else": ("fits no text",),
    "no pictures": ("too few images",),
    "all pictures dead": ("http 404",),
    "repeated text": ("text repeats itself",),
    "broken json": ("broken json line",),
    "not a document": ("not a document",),
}


def build(folder: str, base: str, seed: int, share: float) -> World:
    """Write documents in the forms of MMC4 and OBELICS in turn, their pictures, and the truth."""
    from gristmill.model.shapes.changes import make_story
    from gristmill.model.shapes.scenes import draw, make_scene

    first = 7 * 10**9 + seed * 10**5
    rng = np.random.Generator(np.random.PCG64([seed, 32]))
    lines: list[str] = []
    planted: list[Planted] = []
    routes: dict[str, Route] = {}
    logo = draw(make_scene(first + 90_000), _SIDE)

    def put(picture: Image, name: str, quality: int = 92) -> str:
        data = encode_jpeg(picture, quality)
        if name.startswith("broken"):
            data = data[: len(data) // 2]
        with open(os.path.join(folder, "site", name), "wb") as file:
            file.write(data)
        routes[f"/{name}"] = {"type": "image/jpeg"}
        return f"{base}/{name}"

    def add(fault: str, number: int) -> None:
        row = len(lines)
        story = make_story(first + number)
        texts = [*story.texts, _ENDING]
        images = [
            (put(draw(scene, _SIDE), f"{row:04d}-{i}.jpg"), place)
            for i, (scene, place) in enumerate(zip(story.scenes, story.places, strict=True))
        ]
        if fault == CLEAN:
            planted.extend(Planted(row, CLEAN, url) for url, _ in images)
        extra = _faulty(fault, row, story, put, base, logo, first, rng)
        if fault == "no pictures":
            images = []
        elif fault == "all pictures dead":
            images = [(f"{base}/gone-{row}-{i}.jpg", place) for i, (_, place) in enumerate(images)]
        elif fault == "repeated text":
            texts = [texts[0]] * 6
        if extra is not None:
            images.append((extra, len(texts)))
        if fault != CLEAN:
            own = extra or (images[0][0] if fault == "all pictures dead" else None)
            planted.append(Planted(row, fault, own))
        if fault == "broken json":
            lines.append(f'{{"text_list": ["cut off at {row}')
        elif fault == "not a document":
            lines.append(json.dumps({"title": f"nothing {row}"}))
        else:
            lines.append(json.dumps(_as_row(texts, images, f"http://story.test/{row}", row)))

    number = 0
    for fault, count in scaled({CLEAN: _CLEAN, **PLANTED}, share).items():
        for _ in range(count):
            add(fault, number)
            number += 1
    with open(os.path.join(folder, "documents.jsonl"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return World("documents.jsonl", planted, routes)


def _faulty(
    fault: str,
    row: int,
    story: Story,
    put: Callable[..., str],
    base: str,
    logo: Image,
    first: int,
    rng: np.random.Generator,
) -> str | None:
    """The address of a faulty picture, if the fault is one of a picture."""
    from gristmill.model.shapes.scenes import draw, make_scene

    if fault == "logo of the site":
        # Sometimes the same file, mostly another encoding of it.
        return put(logo, f"logo-{row}.jpg", int(rng.integers(60, 95)))
    if fault == "tiny icon":
        return put(draw(make_scene(first + 80_000 + row), 32), f"icon-{row}.jpg")
    if fault == "dead image":
        return f"{base}/dead-{row}.jpg"
    if fault == "broken image":
        return put(draw(make_scene(first + 70_000 + row), _SIDE), f"broken-{row}.jpg")
    if fault == "blank image":
        blank = np.full((_SIDE, _SIDE, 3), int(rng.integers(256)), np.uint8)
        return put(blank, f"blank-{row}.jpg")
    if fault == "picture of something else":
        told = {(t.colour, t.shape) for scene in story.scenes for t in scene.things}
        number = first + 60_000 + row
        while make_scene(number).content & told:
            number += 10_000
        return put(draw(make_scene(number), _SIDE), f"other-{row}.jpg")
    return None


def _as_row(
    texts: list[str], images: list[tuple[str, int]], url: str, row: int
) -> dict[str, object]:
    """MMC4 for even rows, OBELICS for odd ones."""
    if row % 2 == 0:
        info = [
            {"raw_url": address, "matched_text_index": min(place, len(texts) - 1)}
            for address, place in images
        ]
        return {"url": url, "text_list": texts, "image_info": info}
    cells: list[tuple[str | None, str | None]] = []
    for number, text in enumerate(texts):
        cells += [(None, address) for address, place in images if place == number]
        cells.append((text, None))
    cells += [(None, address) for address, place in images if place >= len(texts)]
    return {
        "texts": [text for text, _ in cells],
        "images": [image for _, image in cells],
        "general_metadata": json.dumps({"url": url}),
    }


def demo_dag(source: str, network: str, host: str) -> Dag:
    """The interleaved recipe on the little world."""
    return apply_settings(
        interleaved(path=source, name="little-stories"),
        [
            f"download.allow_hosts={host}",
            "keep_images.rules.fits no text=clip_score < 0.75",
            "shards.title=Stories of shapes",
            *common_settings(network),
            "part_rows=100",
        ],
    )


DEMO = MediaDemo(
    build, demo_dag, CAUGHT_AS, "keep_images", "clip_score", "picture of something else"
)
