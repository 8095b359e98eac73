"""What is said of pictures that a stage of the user's own makes is what their bytes say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.picture_facts import with_picture_facts
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.stage_code import is_of_users
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import StageError
from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.schema import ROW, make_child_uid, make_image_id, with_columns
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Map

OUT = pa.schema([*ROW, pa.field("image", pa.binary())])


@dataclass(frozen=True, kw_only=True)
class Cropped(Map):
    """A row, and its upper half as a PNG beside it."""

    takes_bytes: ClassVar[bool] = True
    # What it says of the halves beside their bytes.
    says_width: int = 0

    def writes(self) -> pa.Schema:
        width = [OUT.field("width")] if self.says_width else []
        return pa.schema([OUT.field("uid"), OUT.field("parent_uid"), *width, OUT.field("image")])

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        for i in range(len(table)):
            row = table.slice(i, 1)
            data, parent = row["image"][0].as_py(), row["uid"][0].as_py()
            same = {"image": [data], "width": [40]}
            yield with_columns(row, same, OUT)
            pixels = decode_rgb(data)[:10, :, ::-1]
            values = {
                "uid": [make_child_uid(parent, "Cropped", 0)],
                "parent_uid": [parent],
                "image_id": [make_image_id("upper", parent)],
                "image": [cv2.imencode(".png", pixels)[1].tobytes()],
                "width": [self.says_width],
            }
            yield with_columns(row, values, OUT)


def run(folder: Path, **fields: int) -> Path:
    (folder / "pictures").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (30, 40, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{i}.jpg"), pixels)
        (folder / "pictures" / f"{i}.txt").write_text(f"a picture of noise number {i}")
    nodes = {
        "source": Node(Source(path=str(folder / "pictures"))),
        "download": Node(Download(resize_mode="no"), ("source",)),
        "cropped": Node(Cropped(**fields), ("download",)),
        "shards": Node(Shards(val_share=0.0), ("cropped",)),
    }
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    execute(Dag("cropped", nodes), str(folder / "run"), options, make_progress(plain=True))
    return folder / "run"


def test_size_format_and_digest_are_those_of_the_bytes(tmp_path: Path) -> None:
    samples = list(ShardSet(str(run(tmp_path) / "shards")))
    said = pq.read_table(tmp_path / "run/shards/train/metadata").to_pylist()
    assert len(samples) == len(said) == 6
    assert sorted((one["width"], one["height"], one["format"]) for one in said) == [
        (40, 10, "png"), (40, 10, "png"), (40, 10, "png"),
        (40, 30, "jpg"), (40, 30, "jpg"), (40, 30, "jpg"),
    ]  # fmt: skip
    assert len({one["sha256"] for one in said}) == 6, "no child is a copy of its parent"
    names = [name for path in tmp_path.glob("run/shards/train/*.tar") for name in _members(path)]
    assert sum(name.endswith(".png") for name in names) == 3


def _members(path: Path) -> list[str]:
    import tarfile

    with tarfile.open(path) as tar:
        return tar.getnames()


def test_what_the_stage_says_itself_is_held_to_them(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"picture whose width is 40, and says 39 .*with_columns"):
        run(tmp_path, says_width=39)


def test_a_turned_picture_has_either_size_and_other_bytes_have_none() -> None:
    import io

    import PIL.Image

    picture, file = PIL.Image.new("RGB", (8, 4)), io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(file, "JPEG", exif=exif)
    stage = Cropped(says_width=1)
    for data, width in ((file.getvalue(), 4), (file.getvalue(), 8), (b"no picture", 77)):
        table = pa.table({"uid": ["u"], "width": pa.array([width], pa.int32()), "image": [data]})
        found = with_picture_facts("it", stage, table, {"u"})
        assert found["width"].to_pylist() == [width]
    with pytest.raises(StageError, match="says 5"):
        wrong = {"uid": ["u"], "width": pa.array([5], pa.int32()), "image": [file.getvalue()]}
        with_picture_facts("it", stage, pa.table(wrong), {"u"})


def test_a_row_that_stays_itself_keeps_the_digest_of_what_was_received() -> None:
    columns = {"uid": ["u", "v"], "sha256": ["r", "r"], "image": [b"a", b"b"]}
    found = with_picture_facts("it", Cropped(), pa.table(columns), {"u"})
    assert found["sha256"].to_pylist() == ["r", hashlib.sha256(b"b").hexdigest()]


def test_only_stages_from_outside_are_looked_at() -> None:
    assert is_of_users(Cropped()) and not is_of_users(Download())


def test_a_column_without_a_type_is_named() -> None:
    with pytest.raises(StageError, match=r"the column 'format', .* add pa.field\('format'"):
        with_columns(pa.table({"uid": ["u"]}), {"format": ["jpg"]}, OUT)
