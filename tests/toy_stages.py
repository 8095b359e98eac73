"""Small real stages for engine tests; importable by child processes and Ray workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from gristmill.errors import MissingWeightsError
from gristmill.pipelines.decode import Image
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.schema import ROW, SUCCESS, make_image_id, make_uid, with_columns
from gristmill.pipelines.stage import ManifestEntry, Map, Read, Score


@dataclass(frozen=True, kw_only=True)
class ToyRows(Read):
    """`rows` made-up rows in chunks of `chunk`; every tenth repeats the one before."""

    rows: int = 40
    chunk: int = 15
    # Captions of one image: this many rows share a URL.
    captions: int = 1

    def manifest(self) -> list[ManifestEntry]:
        return [{"name": "toy", "size": self.rows, "modified": ""}]

    def chunks(self) -> list[tuple[int, int]]:
        return [(i, min(i + self.chunk, self.rows)) for i in range(0, self.rows, self.chunk)]

    def read(self, chunk: tuple[int, int]) -> Iterator[pa.Table]:
        rows = []
        for n, i in enumerate(range(*chunk)):
            number = i - 1 if i % 10 == 9 else i
            url, caption = f"http://toy.test/{number // self.captions}", f"picture {number}"
            rows.append(
                {
                    "uid": make_uid("url", url, caption),
                    "image_id": make_image_id("url", url),
                    "row": n,
                    "source": "toy",
                    "url": url,
                    "caption": caption,
                    "status": "pending",
                    "meta": "{}",
                }
            )
        yield pa.Table.from_pylist(rows, ROW)


@dataclass(frozen=True, kw_only=True)
class ToyDraw(Map):
    """Draws a picture from the URL; some rows fail, some kill or hang their worker."""

    fails: tuple[str, ...] = ()
    kills: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()

    def writes(self) -> pa.Schema:
        return pa.schema(
            [
                *[ROW.field(n) for n in ("status", "error", "width", "height")],
                pa.field("image", pa.binary()),
            ]
        )

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        # Backwards, to prove that the order of arrival does not matter.
        for i in reversed(range(len(table))):
            row = table.slice(i, 1)
            caption = row["caption"][0].as_py()
            _misbehave(caption, self.kills, self.hangs)
            if caption in self.fails:
                values = {"status": ["failed_to_download"], "error": ["http 404"]}
                row = with_columns(row, values, ROW)
                yield row.append_column("image", pa.nulls(1, pa.binary()))
                continue
            seed = int(row["image_id"][0].as_py()[:8], 16)
            pixels = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), np.uint8)
            data = cv2.imencode(".png", pixels)[1].tobytes()
            values = {"status": [SUCCESS], "width": [12], "height": [8]}
            row = with_columns(row, values, ROW)
            yield row.append_column("image", pa.array([data], pa.binary()))

    def is_retryable(self, status: str, error: str) -> bool:
        return error == "http 404"


@dataclass(frozen=True, kw_only=True)
class ToyBrightness(Score):
    """Mean of the pixels, and a tiny embedding."""

    media: ClassVar[Media | None] = PICTURE

    def writes(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field("brightness", pa.float32()),
                pa.field("toy_embedding", pa.list_(pa.float16(), 3)),
            ]
        )

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        assert images is not None
        means = np.array([image.mean() for image in images], np.float32).round(3)
        colours = np.array([image.mean((0, 1)) for image in images], np.float16).reshape(-1)
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(colours, pa.float16()), 3)
        return pa.table([means, embedding], schema=self.writes())


@dataclass(frozen=True, kw_only=True)
class ToyLength(Score):
    """Characters of the caption; some rows kill, hang or break the worker."""

    kills: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    raises: tuple[str, ...] = ()
    # Path of a file that says whether the worker has been killed once already.
    kill_once: str = ""

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("length", pa.int32())])

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        captions = table["caption"].to_pylist()
        for caption in captions:
            _misbehave(caption, self.kills, self.hangs)
            if caption in self.raises:
                raise ValueError("cannot measure this")
        if self.kill_once and not os.path.exists(self.kill_once):
            with open(self.kill_once, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return pa.table([[len(caption) for caption in captions]], schema=self.writes())


def _misbehave(caption: str, kills: Sequence[str], hangs: Sequence[str]) -> None:
    if caption in kills:
        os._exit(7)
    if caption in hangs:
        time.sleep(600)


@dataclass(frozen=True, kw_only=True)
class ToySlow(Score):
    """Takes its time, and leaves a mark that says under which raylet it ran."""

    marks: str = ""
    seconds: float = 0.1

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("slowly", pa.int32())])

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        time.sleep(self.seconds)
        os.makedirs(self.marks, exist_ok=True)
        mark = os.path.join(self.marks, os.environ.get("RAY_RAYLET_PID", "none"))
        with open(mark, "a") as file:
            file.write("x")
        return pa.table([[len(text) for text in table["caption"].to_pylist()]], self.writes())


@dataclass(frozen=True, kw_only=True)
class ToyWeights(ToyLength):
    """Characters of the caption, by weights that lie at `path`; `seen` gets the process that
    looked for them."""

    path: str = ""
    seen: str = ""

    def check_weights(self) -> None:
        with open(self.seen, "w") as file:
            file.write(str(os.getpid()))
        if not os.path.exists(self.path):
            raise MissingWeightsError(f"no weights at {self.path}", "path")
