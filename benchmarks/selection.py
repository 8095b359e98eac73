"""Choosing from what is scored: other rules, near captions, semantic neighbours, at a million rows.

python benchmarks/selection.py keep        # gristmill keep --recipe on a million scored rows
python benchmarks/selection.py copies      # Duplicates on the hashes of a million pictures
python benchmarks/selection.py plan        # which of a million samples lies in which shard
python benchmarks/selection.py captions    # CaptionDuplicates on a million captions
python benchmarks/selection.py semantic    # SemanticClusters on 1,000,000 x 512, memory-mapped
python benchmarks/selection.py faiss       # the neighbours of the same vectors by faiss alone
python benchmarks/selection.py recall      # its recall against brute force on 20,000 x 512
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import pyarrow as pa
from memory_workspace import MemoryWorkspace

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.selections import SELECTIONS
from gristmill.pipelines.decode import Image
from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.dedup.kmeans import unit
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.images.perceptual_hash import THUMBNAIL_BYTES
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ROW
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.stage import Global, Read, Score, Write


@dataclass(frozen=True, kw_only=True)
class ManyRows(Read):
    """Rows without pictures."""

    rows: int = 1_000_000

    def manifest(self) -> list[dict[str, Any]]:
        return [{"name": "many", "size": self.rows, "modified": ""}]

    def estimate_rows(self) -> int:
        return self.rows

    def chunks(self) -> list[int]:
        return list(range(0, self.rows, 10_000))

    def read(self, chunk: int) -> Iterator[pa.Table]:
        count = min(10_000, self.rows - chunk)
        uids = [f"{(chunk + i) * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(count)]
        columns: dict[str, Any] = {
            "uid": uids, "image_id": uids, "row": range(count), "source": ["many"] * count,
            "url": [f"http://many.test/{uid}" for uid in uids], "status": ["success"] * count,
            "caption": ["a caption of some words"] * count,
        }  # fmt: skip
        yield pa.table([columns.get(field.name, [None] * count) for field in ROW], schema=ROW)


@dataclass(frozen=True, kw_only=True)
class ManyScores(Score):
    """Every column that a selection of ours names, made up."""

    floats: ClassVar[tuple[str, ...]] = (
        "clip_score", "filter_score", "caption_alpha_share", "caption_repetition", "aspect",
        "caption_language_confidence", "caption_jaccard", "semantic_similarity", "density_share",
        "blank_share",
    )  # fmt: skip
    counts: ClassVar[tuple[str, ...]] = (
        "caption_words", "caption_chars", "caption_copy_rank", "caption_group_rank",
        "received_bytes", "original_width", "original_height",
    )  # fmt: skip
    flags: ClassVar[tuple[str, ...]] = (
        "caption_boilerplate", "caption_markup", "caption_url", "caption_email", "caption_phone",
        "near_target",
    )  # fmt: skip

    def reads(self) -> tuple[str, ...]:
        return ("uid",)

    def writes(self) -> pa.Schema:
        fields = [pa.field(name, pa.float32()) for name in self.floats]
        fields += [pa.field(name, pa.int32()) for name in self.counts]
        fields += [pa.field(name, pa.bool_()) for name in self.flags]
        texts = ("caption_language", "duplicate_of")
        return pa.schema([*fields, *[pa.field(name, pa.string()) for name in texts]])

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        rng = np.random.default_rng(int(table["uid"][0].as_py()[-8:], 16))
        n = len(table)
        columns: list[Any] = [rng.uniform(size=n).astype(np.float32) for _ in self.floats]
        columns += [rng.integers(0, 20_000, n).astype(np.int32) for _ in self.counts]
        columns += [pa.array(rng.uniform(size=n) < 0.02) for _ in self.flags]
        columns.append(pa.array(rng.choice(["en", "de", "fr"], n)))
        columns.append(pa.array([None] * n, pa.string()))
        return pa.table(columns, schema=self.writes())


def measure_keep(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds of each selection on a run that has its scores."""
    import selection

    dag = Dag(
        name="many",
        nodes={
            "source": Node(selection.ManyRows(rows=rows)),
            "scores": Node(selection.ManyScores(), ("source",)),
            "keep": Node(Keep(rules={"weak": "clip_score < 0.3"}), ("scores",)),
        },
    )
    out = str(folder / "many")
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    start = time.perf_counter()
    with make_progress(None, True, log=None) as progress:
        execute(dag, out, options, progress)
    found: dict[str, Any] = {"rows": rows, "the run itself, s": time.perf_counter() - start}
    for name, chosen in SELECTIONS.items():
        choice = choose(out, {"rules": chosen.rules})
        found[name] = round(choice.seconds, 2)
        found[f"{name}, kept"] = choice.kept
    return found


def measure(stage: Global | Write, workspace: Any, phases: int | None = None) -> dict[str, Any]:
    """Seconds of each phase, or the first of them, and of all columns."""
    found: dict[str, Any] = {}
    for phase in stage.phases()[:phases]:
        start = time.perf_counter()
        for task in range(phase.count(workspace)):
            phase.work(workspace, task)
        found[f"{phase.name}, s"] = round(time.perf_counter() - start, 1)
    if isinstance(stage, Global):
        start = time.perf_counter()
        for part in range(workspace.parts):
            stage.columns(workspace, part)
        found["columns, s"] = round(time.perf_counter() - start, 1)
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    found["peak, MB"] = round(int(line.split()[1]) / 1024)
    return found


class ManyParts(MemoryWorkspace):
    """Parts that are made when they are asked for."""

    def __init__(self, make: Any, count: int, folder: Path) -> None:
        super().__init__([make(0).slice(0, 0)], folder)
        self._make, self._count = make, count

    @property
    def parts(self) -> int:
        return self._count

    def rows(self, part: int, columns: Sequence[str]) -> pa.Table:
        return self._make(part).select(list(columns))


def embeddings(part: int, count: int, width: int) -> pa.Table:
    """Vectors around a thousand topics; a tenth are near copies of another in the part."""
    topics = np.random.default_rng(0).standard_normal((1000, width)).astype(np.float32)
    rng = np.random.default_rng(part + 1)
    values = topics[rng.integers(0, 1000, count)]
    values = values + 0.7 * rng.standard_normal((count, width)).astype(np.float32)
    copies = rng.permutation(count)[: count // 10]
    values[copies] = values[rng.integers(0, count, len(copies))]
    values[copies] += 0.1 * rng.standard_normal((len(copies), width)).astype(np.float32)
    flat = pa.array(unit(values).astype(np.float16).reshape(-1))
    uids = [f"{(part * count + i) * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(count)]
    return pa.table(
        {
            "image_id": uids,
            "image_embedding": pa.FixedSizeListArray.from_arrays(flat, width),
            "clip_score": rng.uniform(size=count).astype(np.float32),
        }
    )


def measure_faiss(parts: int, count: int, width: int) -> dict[str, Any]:
    """Seconds of faiss for the twenty nearest of each vector within its cell, with as many cells as
    `SemanticClusters` takes; all vectors in memory."""
    import faiss

    values = np.concatenate(
        [
            np.asarray(
                embeddings(part, count, width)["image_embedding"].combine_chunks().flatten(),
                np.float32,
            ).reshape(-1, width)
            for part in range(parts)
        ]
    )
    found: dict[str, Any] = {}
    start = time.perf_counter()
    cells = max(1, len(values) // 1000)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(values[:: max(1, len(values) // (50 * cells))])
    found["train, s"] = round(time.perf_counter() - start, 1)
    index.add(values)
    found["train and add, s"] = round(time.perf_counter() - start, 1)
    for at in range(0, len(values), 10_000):
        index.search(values[at : at + 10_000], 20)
    found["all, s"] = round(time.perf_counter() - start, 1)
    return found


def measure_recall(folder: Path) -> dict[str, Any]:
    """Share of the semantic duplicates that brute force finds, on 20,000 x 512."""
    table = embeddings(0, 20_000, 512)
    workspace = MemoryWorkspace([table], folder)
    stage = SemanticClusters()
    found = measure(stage, workspace)
    similarity = stage.columns(workspace, 0)["semantic_similarity"].to_numpy()
    values = np.asarray(table["image_embedding"].combine_chunks().flatten(), np.float32)
    values = unit(values.reshape(-1, 512))
    preferred = table["clip_score"].to_numpy()
    truth = np.empty(len(values), np.float32)
    for start in range(0, len(values), 2000):
        rows = slice(start, start + 2000)
        cosine = values[rows] @ values.T
        cosine[preferred[None] <= preferred[rows, None]] = -1
        truth[rows] = cosine.max(axis=1)
    for border in (0.9, 0.95):
        wanted = truth > border
        got = (similarity > border) & wanted
        found[f"recall at {border}"] = round(float(got.sum() / wanted.sum()), 4)
        found[f"duplicates at {border}"] = int(wanted.sum())
    return found


def captions(part: int, count: int) -> pa.Table:
    """Captions of 5 to 20 words; a tenth are others with a word changed."""
    rng = random.Random(part)
    words = [f"w{i}" for i in range(20_000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 20))) for _ in range(count)]
    for place in rng.sample(range(count), count // 10):
        other = texts[rng.randrange(count)].split()
        other[rng.randrange(len(other))] = rng.choice(words)
        texts[place] = " ".join(other)
    uids = [f"{(part * count + i) * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(count)]
    scores = np.zeros(count, np.float32)
    return pa.table({"uid": uids, "caption": texts, "clip_score": scores})


def hashes(part: int, count: int) -> pa.Table:
    """Pictures of noise; in each hundred one is a copy of the row before, and one nearly."""
    rng = np.random.default_rng(part)
    numbers = part * count + np.arange(count)
    phash = rng.integers(0, 2**63, count, np.uint64)
    thumbnails = rng.integers(0, 255, (count, THUMBNAIL_BYTES), np.uint8)
    of = np.where(np.isin(np.arange(count) % 100, (1, 3)), np.arange(count) - 1, np.arange(count))
    phash, thumbnails = phash[of], thumbnails[of]
    near = np.arange(count) % 100 == 3
    phash[near] ^= np.uint64(0b1001)
    names = np.where(near, numbers, numbers[of]).tolist()
    digests = [hashlib.sha256(b"%d" % name).hexdigest() for name in names]
    sides = np.full(count, 512, np.int32)
    uids = [f"{int(n) * 0x9E3779B97F4A7C15 % 2**128:032x}" for n in numbers]
    return pa.table(
        {
            "uid": uids,
            "image_id": uids,
            "sha256": digests,
            "pixel_hash": [digest[32:] for digest in digests],
            "phash": pa.array(phash.view(np.int64)),
            "thumbnail": [row.tobytes() for row in thumbnails],
            "original_width": sides,
            "original_height": sides,
            "clip_score": np.zeros(count, np.float32),
        }
    )


def samples(part: int, count: int) -> pa.Table:
    """What shards say of a sample, for pictures of 25 kB."""
    rng = np.random.default_rng(part)
    numbers = (part * count + np.arange(count)).tolist()
    sides = np.full(count, 512, np.int32)
    return pa.table(
        {
            "uid": [f"{n * 0x9E3779B97F4A7C15 % 2**128:032x}" for n in numbers],
            "row": numbers,
            "parent_uid": pa.nulls(count, pa.string()),
            "url": [f"http://host{n % 999}.test/pictures/{n}.jpg" for n in numbers],
            "caption": [f"a caption of usual length, of the picture number {n}" for n in numbers],
            "sha256": [hashlib.sha256(b"%d" % n).hexdigest() for n in numbers],
            "width": sides,
            "height": sides,
            "format": ["jpg"] * count,
            "clip_score": rng.uniform(size=count).astype(np.float32),
            "blob_offset": np.arange(count) * 25_000,
            "blob_size": np.full(count, 25_000),
        }
    )


def measure_copies(workspace: Any) -> dict[str, Any]:
    """Seconds of Duplicates, and how many of the planted copies it found."""
    stage = Duplicates()
    found = measure(stage, workspace)
    kinds: Counter[str] = Counter()
    for part in range(workspace.parts):
        kinds.update(stage.columns(workspace, part)["duplicate_kind"].drop_null().to_pylist())
    return found | {"copies found": dict(kinds)}


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", choices=("keep", "copies", "plan", "captions", "semantic", "faiss", "recall")
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gristmill-selection-"))
    parts = max(1, options.rows // 10_000)
    try:
        if options.what == "keep":
            found = measure_keep(folder, options.rows)
        elif options.what == "recall":
            found = measure_recall(folder)
        elif options.what == "copies":
            workspace = ManyParts(lambda part: hashes(part, 10_000), parts, folder)
            found = measure_copies(workspace)
        elif options.what == "plan":
            workspace = ManyParts(lambda part: samples(part, 10_000), parts, folder)
            found = measure(Shards(), workspace, phases=1)
        elif options.what == "faiss":
            found = measure_faiss(parts, 10_000, 512)
        elif options.what == "captions":
            workspace = ManyParts(lambda part: captions(part, 10_000), parts, folder)
            found = measure(CaptionDuplicates(), workspace)
        else:
            workspace = ManyParts(lambda part: embeddings(part, 10_000, 512), parts, folder)
            found = measure(SemanticClusters(), workspace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
