"""A storage that fails, hangs, cuts and lies at a seeded rate, under whole small runs.

It stands in for the local disk or for an object store (memory). What it does to files of a run is
found by their digests; of a source there are none, so that is made to fail and never to lie.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import GristmillError
from gristmill.pipelines.storage import Folder

ROWS = 12
# A third of the seeds have a storage that goes away as a whole, too.
_STOPS = 12


class Faults:
    """What goes wrong, by a seed."""

    def __init__(self, seed: int, rate: float, hang_s: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.rate, self.hang_s = rate, hang_s
        # Operations after which nothing is answered until the run has stopped; 0: never.
        self.down_after = self.random.randrange(20, 400) if seed % 3 == 0 else 0
        self.operations = self.struck = 0

    def strike(self) -> str:
        """The fault of this operation; empty if there is none."""
        self.operations += 1
        if self.down_after and self.operations > self.down_after:
            return "fail"
        if self.random.random() >= self.rate:
            return ""
        self.struck += 1
        kinds = ["fail", "cut", "lie", *(["hang"] if self.hang_s else [])]
        return self.random.choice(kinds)

    def come_back(self) -> None:
        """The run has stopped; the storage is there again."""
        self.down_after = 0


_now: Faults | None = None


def _struck(path: str, data: bytes | None = None) -> bytes | None:
    """Raise, wait, or return other bytes, as it comes."""
    kind = _now.strike() if _now is not None else ""
    if kind == "hang" and _now is not None:
        time.sleep(_now.hang_s)
    if kind == "fail" or (kind and "/run" not in path):
        raise OSError(5, "the storage fails", path)
    if data and kind == "cut":
        return data[: len(data) // 2]
    if data and kind == "lie":
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        return bytes(changed)
    return data


class _Faulty:
    """Over a file system of fsspec."""

    cachable = False

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        data = super().cat_file(path, start=start, end=end, **kwargs)  # type: ignore[misc]
        return _struck(path, data) or b""

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        opened = super().open(path, mode, **kwargs)  # type: ignore[misc]
        if mode != "rb" or _now is None:
            return opened
        with opened:
            return io.BytesIO(_struck(str(path), opened.read()) or b"")

    def info(self, path: Any, **kwargs: Any) -> Any:
        # A listing asks for what it has got already.
        if isinstance(path, str):
            _struck(path)
        return super().info(path, **kwargs)  # type: ignore[misc]

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        _struck(path)
        return super().ls(path, detail=detail, **kwargs)  # type: ignore[misc]

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        kind = _now.strike() if _now is not None else ""
        if kind == "fail":
            raise OSError(5, "the storage fails", path)
        # What is cut on the way is noticed by its length; nobody writes other bytes than it got.
        held = value[: len(value) // 2] if kind == "cut" else value
        super().pipe_file(path, held, **kwargs)  # type: ignore[misc]


class FaultyDisk(_Faulty, LocalFileSystem):
    """Of this machine."""


class FaultyStore(_Faulty, MemoryFileSystem):
    """An object store."""


@contextlib.contextmanager
def faulty(faults: Faults) -> Iterator[None]:
    """Within the block, storage is as bad as that."""
    global _now
    fsspec.register_implementation("file", FaultyDisk, clobber=True)
    fsspec.register_implementation("memory", FaultyStore, clobber=True)
    _now = faults
    try:
        yield
    finally:
        _now = None
        fsspec.register_implementation("file", LocalFileSystem, clobber=True)
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


def make_pictures(folder: Path) -> None:
    """Pictures with captions."""
    folder.mkdir(parents=True)
    for i in range(ROWS):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), pixels)
        (folder / f"{i:02d}.txt").write_text(f"a picture of noise number {i}")


def run(pictures: Path, out: str) -> None:
    """Pictures to shards, in this process."""
    text = f"""
dag: small
part_rows: 5
nodes:
  source: {{stage: Source, path: "{pictures}"}}
  download: {{stage: Download, inputs: [source], image_size: 16}}
  hash: {{stage: PerceptualHash, inputs: [download]}}
  duplicates: {{stage: Duplicates, inputs: [hash], prefer: []}}
  keep: {{stage: Keep, inputs: [hash, duplicates], rules: {{odd: "caption LIKE '%number 3'"}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.2, samples_per_shard: 6}}
"""
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        execute(load_dag(text, "test"), out, options, progress)


def product(out: str) -> dict[str, bytes]:
    """Shards and ledger."""
    folder = Folder(out)
    names = [name for under in ("shards", "ledger") for name in folder.walk(under)]
    return {name: folder.read_bytes(name) for name in names}


def survive(pictures: Path, out: str, faults: Faults, wanted: dict[str, bytes]) -> int:
    """Run under faults, again after each stop that says why, until it is done; how many stops.

    Raises `AssertionError` if it comes to other bytes than it would without them.
    """
    stops = 0
    with faulty(faults):
        while True:
            try:
                run(pictures, out)
                break
            except GristmillError as error:
                assert str(error) and "Traceback" not in str(error), error
                stops += 1
                assert stops < _STOPS, error
                faults.come_back()
    assert product(out) == wanted
    assert verify_run(out) == []
    return stops
