"""What the report of a run costs: seconds and peak memory of gathering and rendering it.

cd benchmarks && python report.py make FOLDER 3000000    # a finished run, without pictures
cd benchmarks && python report.py measure FOLDER

`make` writes the scored parts through the engine's own writers and lets the engine do the rest
(rules, ledger, summary), which takes a few minutes; `measure` reads them in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gristmill.dags.engine.execute import RunOptions, execute, lay_out
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD, ROW, SUCCESS
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Map, Score

PART_ROWS = 10_000
LANGUAGES = ("en", "de", "fr", "es", "ja", "ru", "zh", "pt", "it", "nl", "pl")


@dataclass(frozen=True, kw_only=True)
class Fetched(Map):
    """Stands for a download; some of its rows failed."""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        yield table


@dataclass(frozen=True, kw_only=True)
class Numbers(Score):
    """`count` scores."""

    prefix: str
    count: int

    def writes(self) -> pa.Schema:
        return pa.schema([(f"{self.prefix}_{i:02d}", pa.float32()) for i in range(self.count)])

    def score(self, table: pa.Table, images: Sequence[object] | None) -> pa.Table:
        rng = np.random.default_rng(int(table["row"][0].as_py()) + self.count)
        values = rng.standard_normal((self.count, len(table))).astype(np.float32)
        values[:, rng.uniform(size=len(table)) < 0.02] = np.nan
        return pa.table(list(values.round(5)), schema=self.writes())


@dataclass(frozen=True, kw_only=True)
class Corpus(Score):
    """What the stages that look at the whole corpus say of a row: copies, captions, clusters."""

    def writes(self) -> pa.Schema:
        return pa.schema(
            [
                ("caption_language", pa.string()),
                ("caption_copies", pa.int32()),
                ("caption_copy_rank", pa.int32()),
                ("caption_group_rank", pa.int32()),
                ("duplicate_of", pa.string()),
                ("duplicate_kind", pa.string()),
                ("duplicate_group", pa.string()),
                ("duplicate_group_size", pa.int32()),
                ("duplicate_distance", pa.int32()),
                ("semantic_similarity", pa.float32()),
                ("semantic_cluster", pa.int32()),
            ]
        )

    def score(self, table: pa.Table, images: Sequence[object] | None) -> pa.Table:
        count, first = len(table), int(table["row"][0].as_py())
        rng = np.random.default_rng(first)
        own = table["image_id"].to_pylist()
        # A tenth are copies of the row ten before them.
        copies = np.arange(count) % 10 == 9
        group = [own[i - 9] if copies[i] else own[i] for i in range(count)]
        kind = np.array(["bytes", "pixels", "near"])[rng.integers(0, 3, count)]
        size = np.where((np.arange(count) % 10 == 9) | (np.arange(count) % 10 == 0), 2, 1)
        languages = np.array(LANGUAGES)[rng.integers(0, len(LANGUAGES), count)]
        return pa.table(
            [
                languages.tolist(),
                rng.integers(1, 30, count).astype(np.int32),
                rng.integers(0, 3, count).astype(np.int32),
                rng.integers(0, 3, count).astype(np.int32),
                pa.array(group, pa.string(), mask=~copies),
                pa.array(kind.tolist(), pa.string(), mask=~copies),
                group,
                size.astype(np.int32),
                pa.array(rng.integers(0, 9, count).astype(np.int32), mask=~copies),
                rng.uniform(-1, 1, count).astype(np.float32).round(5),
                rng.integers(0, 3000, count).astype(np.int32),
            ],
            schema=self.writes(),
        )


def benchmark_dag(folder: str) -> Dag:
    """Three nodes of scores (29 numeric columns), one of facts about the corpus, and rules."""
    rules = {"weak": "clip_00 < quantile(clip_00, 0.3)", "copy": "duplicate_of IS NOT NULL"}
    return Dag(
        "report-benchmark",
        {
            "source": Node(Source(path=f"{folder}/urls.csv")),
            "fetched": Node(Fetched(), ("source",)),
            "clip": Node(Numbers(prefix="clip", count=4), ("fetched",)),
            "image": Node(Numbers(prefix="image", count=8), ("fetched",)),
            "caption": Node(Numbers(prefix="caption", count=12), ("fetched",)),
            "corpus": Node(Corpus(), ("fetched",)),
            "keep": Node(Keep(rules=rules), ("clip", "image", "caption", "corpus")),
        },
        part_rows=PART_ROWS,
    )


def make(folder: str, rows: int) -> None:
    """A finished run of `rows` rows in FOLDER/run."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/urls.csv", "w", encoding="utf-8") as file:
        file.write("url,caption\nhttp://host.test/0.jpg,a photo\n")
    dag, out = benchmark_dag(folder), f"{folder}/run"
    layout = lay_out(dag, out)
    parts = -(-rows // PART_ROWS)
    for part in range(parts):
        first = part * PART_ROWS
        table = source_rows(first, min(PART_ROWS, rows - first))
        for node in dag.order():
            stage = dag.stage(node)
            if isinstance(stage, Keep):
                continue
            found = table
            if isinstance(stage, Map):
                table = found = fetched(table)
                going = table["status"].to_numpy() == SUCCESS
            elif isinstance(stage, Score):
                going_on = table.filter(pa.array(going))
                found = stage.score(going_on, None).add_column(0, ROW.field("uid"), going_on["uid"])
            above = {other: layout.digest(other, part) for other in dag.node(node).inputs}
            failed = len(table) - int(going.sum()) if isinstance(stage, Map) else 0
            with layout.store(node).attempt(part) as attempt:
                attempt.write_table("rows", found)
                attempt.commit(
                    inputs=above,
                    rows_in=len(found),
                    rows_out=len(found) - failed,
                    dropped={"http 404": failed} if failed else {},
                )
    source = layout.folder.sub(layout.node_folder(dag.source))
    source.write_json("parts.json", {"parts": parts, "rows": rows})
    execute(dag, out, RunOptions(runner="local"), make_progress(plain=True))


def source_rows(first: int, count: int) -> pa.Table:
    """Rows as a URL list gives them."""
    numbers = range(first, first + count)
    uids = [hashlib.md5(b"%d" % i).hexdigest() for i in numbers]
    values: dict[str, list[object]] = {
        "uid": uids,
        "image_id": uids,
        "row": list(numbers),
        "source": ["urls"] * count,
        "url": [f"http://host{i % 999}.test/{i}.jpg" for i in numbers],
        "caption": [f"a photo of something, number {i}" for i in numbers],
        "status": ["pending"] * count,
    }
    columns = [pa.array(values.get(f.name, [None] * count), f.type) for f in ROW]
    return pa.table(columns, schema=ROW)


def fetched(table: pa.Table) -> pa.Table:
    """The same after a download of which a twentieth failed."""
    failed = np.arange(len(table)) % 20 == 7
    status = np.where(failed, FAILED_TO_DOWNLOAD, SUCCESS).tolist()
    error = pa.array(["http 404"] * len(table), pa.string(), mask=~failed)
    for name, values in (("status", pa.array(status)), ("error", error)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), values)
    return table


def gather(folder: str) -> None:
    """Gather and render in this process, and say what it took."""
    from gristmill.dags.reports.gather import gather_report
    from gristmill.dags.reports.report import render_html

    before = peak_mb()
    start = time.perf_counter()
    data = gather_report(f"{folder}/run")
    page = render_html(data)
    print(
        json.dumps(
            {
                "rows": data.rows_in,
                "seconds": round(time.perf_counter() - start, 1),
                "peak_mb": round(peak_mb()),
                "peak_of_imports_mb": round(before),
                "page": hashlib.sha256(page.encode()).hexdigest()[:12],
            }
        )
    )


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """See the top of this file."""
    match sys.argv[1:]:
        case ["make", folder, rows]:
            make(os.path.abspath(folder), int(rows))
        case ["measure", folder]:
            subprocess.run([sys.executable, __file__, "gather", folder], check=True)
        case ["gather", folder]:
            gather(os.path.abspath(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    # The stages are found again by the name of this module, not as __main__'s.
    import report

    report.main()
