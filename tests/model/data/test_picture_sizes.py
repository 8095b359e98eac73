"""Sizes that are known before a picture is opened are those it has once it is."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from foreign_tars import Members, write_tar
from model_world import World

from gristmill.model.data.picture_sizes import size_of, upright_size
from gristmill.model.data.tar_samples import TarSamples
from gristmill.model.training.training_setup import make_setup


def _file(kind: str, orientation: int, *, exif_bytes: int = 0, side: int = 40) -> bytes:
    """A picture of which a quarter is white."""
    pixels = np.zeros((side, side // 2, 3), np.uint8)
    pixels[: side // 2, : side // 4] = 255
    exif = PIL.Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    if exif_bytes:
        exif[0x010E] = "x" * exif_bytes
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_pictures_of_foreign_tars_are_upright_and_of_the_size_that_was_told(
    kind: str, tmp_path: Path
) -> None:
    members: Members = []
    for orientation in range(9):
        members.append((f"{orientation}.{kind}", _file(kind, orientation)))
        # A sidecar tells the size before the picture was turned, or that of another picture.
        members.append((f"{orientation}.json", json.dumps({"width": 7, "height": 3}).encode()))
    # Of what a camera writes before the size, and of a picture that is larger than what is read.
    members.append((f"9.{kind}", _file(kind, 6, exif_bytes=60_000)))
    members.append((f"10.{kind}", _file(kind, 8, side=600)))
    write_tar(tmp_path / "a.tar", members)
    samples = TarSamples(str(tmp_path))
    for row, columns in enumerate(samples.table(0).to_pylist()):
        picture = samples.picture(0, row)
        assert size_of(columns) == picture.shape[:2]
        assert columns["width"] < columns["height"] or row >= 5
    for row in range(9):
        with PIL.Image.open(io.BytesIO(dict(members)[f"{row}.{kind}"])) as image:
            shown = np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"), int)
        assert np.abs(shown - samples.picture(0, row)).mean() < 3


def test_what_is_no_picture_has_no_size(tmp_path: Path) -> None:
    whole = _file("jpeg", 1)
    for data in (b"", b"no picture", whole[:20], b"RIFF\x10\0\0\0WEBPVP8X"):
        assert upright_size(io.BytesIO(b"before" + data), 6, len(data)) is None
    write_tar(tmp_path / "a.tar", [("0.jpg", whole), ("1.jpg", b"no picture")])
    assert [size_of(row) for row in TarSamples(str(tmp_path)).table(0).to_pylist()] == [
        (40, 20),
        None,
    ]


def test_columns_say_the_size_of_each_picture() -> None:
    assert size_of({"width": 5, "height": 4}, 3) == (4, 5)
    assert size_of({"width": None, "height": 4}) is None
    assert size_of({}) is None
    several = {"image_widths": np.array([5, np.nan]), "image_heights": np.array([4, 4])}
    # Of a document, its own columns say nothing.
    found = [size_of({**several, "width": None, "height": None}, n) for n in range(3)]  # type: ignore[typeddict-item]
    assert found == [(4, 5), None, None]


def test_a_planner_knows_the_sizes_of_its_pictures(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path)
    plain = dataclasses.replace(config.data[0], url=world.plain)
    planner = make_setup(dataclasses.replace(config, data=(config.data[0], plain))).planner
    for source in (0, 1):
        known = planner.picture_size(source, 1, 5)
        assert known == planner.samples[source].picture(1, 5).shape[:2] == (60, 60)
