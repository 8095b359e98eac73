"""Data as people have it goes to shards, and the ledger has a line for each line, picture or member
that a plain counter finds there."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pillow_heif
import pyarrow.parquet as pq
import pytest

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.shards.reader import ShardSet

DAG = """
dag: own
nodes:
  source: {{stage: Source, path: "{path}"}}
  download: {{stage: Download, inputs: [source], image_size: 16}}
  keep: {{stage: Keep, inputs: [download], rules: {{}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.0}}
"""


def picture(seed: int, kind: str = "JPEG") -> bytes:
    pillow_heif.register_heif_opener()
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


# Each writes a source and returns where it lies, its captions that must be kept, and how many lines
# a plain counter finds.
Made = tuple[Path, set[str], int]


def imagefolder(home: Path) -> Made:
    """As the datasets library writes its table; one picture is broken, one is not there."""
    rows = [{"file_name": f"{i}.jpg", "text": f"picture {i}"} for i in range(5)]
    for i in range(4):
        (home / f"{i}.jpg").write_bytes(picture(i) if i else b"broken")
    datasets.Dataset.from_list(rows).to_csv(str(home / "metadata.csv"))
    with open(home / "metadata.csv", encoding="utf-8") as file:
        lines = sum(1 for _ in csv.DictReader(file))
    return home, {f"picture {i}" for i in (1, 2, 3)}, lines


def tar_of_a_mac(home: Path) -> Made:
    with tarfile.open(home / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(3):
            for name, data in ((f"{i}.jpg", picture(i)), (f"{i}.txt", f"Bild {i}".encode())):
                for path, content in ((f"./._{name}", b"\0\5\x16\7" + bytes(90)), (name, data)):
                    info = tarfile.TarInfo(path)
                    info.size = len(content)
                    info.pax_headers = {"LIBARCHIVE.xattr.com.apple.metadata": "YnBsaXN0"}
                    tar.addfile(info, io.BytesIO(content))
    with tarfile.open(home / "a.tar") as tar:
        found = [m.name for m in tar if m.name.endswith(".jpg") and "._" not in m.name]
    return home / "a.tar", {f"Bild {i}" for i in range(3)}, len(found)


def llava(home: Path) -> Made:
    (home / "coco").mkdir()
    rows = []
    for i in range(3):
        (home / f"coco/{i}.jpg").write_bytes(picture(i))
        turns = [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": f"boat {i}"},
        ]
        rows.append({"id": str(i), "image": f"coco/{i}.jpg", "conversations": turns})
    rows.append({"id": "text alone", "conversations": rows[0]["conversations"]})
    (home / "llava.json").write_text(json.dumps(rows))
    counted = len(json.loads((home / "llava.json").read_text()))
    return home / "llava.json", {f"boat {i}" for i in range(3)}, counted


def phone(home: Path) -> Made:
    """HEIC and JPEG with captions beside, what a phone leaves besides, and one broken."""
    for i in range(4):
        kind, ending = ("HEIF", "HEIC") if i % 2 else ("JPEG", "JPG")
        (home / f"IMG_{i}.{ending}").write_bytes(picture(i, kind))
        (home / f"IMG_{i}.txt").write_text(f"day {i}")
        (home / f"IMG_{i}.AAE").write_text("<plist/>")
    (home / "IMG_9.HEIC").write_bytes(picture(9, "HEIF")[:200])
    (home / "._IMG_0.JPG").write_bytes(b"\0\5\x16\7")
    shown = [path for path in home.iterdir() if path.suffix in (".HEIC", ".JPG")]
    counted = sum(1 for path in shown if not path.name.startswith("."))
    return home, {f"day {i}" for i in range(4)}, counted


@pytest.mark.parametrize("make", [imagefolder, tar_of_a_mac, llava, phone])
def test_it_goes_to_shards_and_nothing_is_lost(
    make: Callable[[Path], Made], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    path, captions, counted = make(tmp_path / "own")
    out = tmp_path / "run"
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        summary = execute(load_dag(DAG.format(path=path), "test"), str(out), options, progress)
    assert summary["ledger_ok"] and verify_run(str(out)) == []
    assert pq.read_table(out / "ledger").num_rows == counted
    samples = list(ShardSet(str(out / "shards")))
    assert {sample.caption for sample in samples} == captions and len(samples) == len(captions)
    assert all(sample.columns["format"] == "jpg" for sample in samples)
