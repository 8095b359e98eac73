"""A little finished run for tests of what is done with runs: twelve pictures whose brightness is
known, a stage that needs a file, and helpers that run and build it here."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.add import Added, add, added_source
from gristmill.dags.runs.keep import Choice, build
from gristmill.dags.runs.plan import open_run
from gristmill.errors import MissingWeightsError
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.sealed import read_sealed, write_sealed
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Score
from gristmill.pipelines.storage import Folder

ROWS = 12
# The picture whose brightness nobody knows.
UNKNOWN = 7
RULES = {"dark": "brightness < 0.2"}
# Numbers 0 and 1 are dark, 7 has no value.
KEPT = {f"number {i}" for i in range(2, ROWS) if i != UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class Light(Score):
    """Brightness by the number in the caption, and a vector; only where the weights' file lies."""

    path: str = "light.txt"

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def writes(self) -> pa.Schema:
        vector = pa.list_(pa.float16(), 2)
        return pa.schema([pa.field("brightness", pa.float32()), pa.field("vector", vector)])

    def describes(self) -> Mapping[str, ColumnFacts]:
        return {"brightness": ColumnFacts("A tenth of the number, at most 1.", low=0, high=1)}

    def check(self) -> None:
        if not Path(self.path).exists():
            raise MissingWeightsError(f"no weights at {self.path}", "path")

    def check_weights(self) -> None:
        self.check()

    def score(self, table: pa.Table, images: Sequence[object] | None) -> pa.Table:
        self.check()
        numbers = [int(text.split()[-1]) for text in table["caption"].to_pylist()]
        light = [None if i == UNKNOWN else min(i / 10, 1.0) for i in numbers]
        flat = pa.array([float(i) for i in numbers for _ in range(2)], pa.float16())
        vectors = pa.FixedSizeListArray.from_arrays(flat, 2)
        return pa.table([pa.array(light, pa.float32()), vectors], schema=self.writes())


def small_dag(rules: Mapping[str, str] = RULES) -> Dag:
    """source -> download -> light -> keep -> shards, three parts, by relative paths."""
    nodes = {
        "source": Node(Source(path="pictures")),
        "download": Node(Download(image_size=16), ("source",)),
        "light": Node(Light(), ("download",)),
        "keep": Node(Keep(rules=rules), ("light",)),
        "shards": Node(Shards(val_share=0.0, samples_per_shard=5), ("keep",)),
    }
    return Dag("small", nodes, part_rows=4)


def wide_dag() -> Dag:
    """The same with duplicates over the whole corpus, and a second product, in Parquet, beside the
    tars: every kind of file that a run folder holds."""
    dag = small_dag()
    nodes = dag.nodes | {
        "hash": Node(PerceptualHash(), ("download",)),
        "duplicates": Node(Duplicates(prefer=()), ("hash",)),
        "keep": Node(Keep(rules=RULES | {"copy": "duplicate_of IS NOT NULL"}),
                     ("light", "duplicates")),
        "table": Node(Shards(format="parquet", val_share=0.4, samples_per_shard=5), ("keep",)),
    }  # fmt: skip
    return Dag("wide", nodes, part_rows=4)


def options(**changes: bool) -> RunOptions:
    """Here and in this process."""
    return RunOptions(runner="local", supervision=Supervision(isolate=False), **changes)


def run_here(home: Path, dag: Dag, out: str = "run", **changes: bool) -> RunSummary:
    """Run from `home`, where the relative paths start."""
    with contextlib.chdir(home), make_progress(None, True, log=None) as progress:
        return execute(dag, out, options(**changes), progress)


def build_here(choice: Choice, **changes: bool) -> RunSummary:
    """Ledger and shards of a choice, from wherever we are."""
    with make_progress(None, True, log=None) as progress:
        return build(choice, options(**changes), progress)


def make_home(home: Path, dag: Dag | None = None, texts: Sequence[str] = ()) -> None:
    """Pictures, with their numbers or with `texts` that end in them as captions, the weights' file,
    and the finished run."""
    home.mkdir(parents=True)
    (home / "light.txt").write_text("on")
    draw(home / "pictures", range(ROWS))
    for i, text in enumerate(texts):
        (home / "pictures" / f"{i:02d}.txt").write_text(text)
    run_here(home, dag or small_dag())


def draw(folder: Path, numbers: Iterable[int], *, as_of: int = 0, side: int = 20) -> None:
    """Pictures with their numbers as captions, `side` pixels high; each looks as that of the number
    that is `as_of` smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        pixels = np.random.default_rng(i - as_of).integers(0, 255, (20, 20, 3), np.uint8)
        pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{i:02d}.png"), pixels)
        (folder / f"{i:02d}.txt").write_text(f"number {i}")


def add_here(
    home: Path, path: str | None, out: str = "run", *, limit: int = 0, **fields: str
) -> Added:
    """Add a list to a run, from `home`; `fields` are of its source."""
    with contextlib.chdir(home), make_progress(None, True, log=None) as progress:
        source = None if path is None else added_source(open_run(out), {"path": path, **fields})
        return add(out, source, options(), progress, limit=limit)


def copy_home(home: Path, to: Path) -> Path:
    """All of it elsewhere, as if it had been run there. Returns the run's folder."""
    shutil.copytree(home, to)
    copy_cwd(to / "run", to)
    return to / "run"


def copy_cwd(out: Path, home: Path) -> None:
    """Have a run say that it was started there."""
    run = Folder(str(out))
    write_sealed(run, "run.json", read_sealed(run, "run.json") | {"cwd": str(home)})


def captions(out: Path) -> set[str]:
    """Of the samples in the shards."""
    return {sample.caption for sample in ShardSet(str(out / "shards"))}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, byte by byte."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
