"""Parts by the size of the source: never by the machine or a limit, and kept by a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_run import toy_dag

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.engine.lay_out import lay_out
from gristmill.dags.engine.part_size import part_size, with_part_size
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import ManifestEntry, Read
from gristmill.pipelines.storage import Folder


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, 32), (40, 32), (5_000, 79), (64_000, 1_000), (10**7, 10_000), (10**8, 50_000)],
)
def test_sixty_four_parts_within_bounds(rows: int, size: int) -> None:
    assert part_size(rows, 10_000) == size


def test_videos_are_more_work_than_pictures() -> None:
    assert part_size(10**6, Source(kind="video").largest_part()) == 200
    assert part_size(10**9, Source(kind="video").largest_part()) == 1_000


def listed(path: Path, rows: int) -> Dag:
    urls = [f"http://host/{i}.jpg" for i in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": urls}), path)
    source = Source(path=str(path))
    return Dag("listed", {"source": Node(source), "keep": Node(Keep(rules={}), ("source",))})


def test_a_limit_changes_nothing_and_a_run_keeps_its_size(tmp_path: Path) -> None:
    dag, out = listed(tmp_path / "list.parquet", 6_400), tmp_path / "run"
    assert dag.part_rows == 0 and "part_rows" not in dump_dag(dag)
    layout = lay_out(dag, str(out))
    assert layout.dag.part_rows == 100
    assert lay_out(dag, str(out), limit=50).dag.part_rows == 100
    out.mkdir()
    (out / "dag.yaml").write_text(dump_dag(dataclasses.replace(dag, part_rows=10_000)))
    assert lay_out(dag, str(out)).dag.part_rows == 10_000, "begun when that was the default"
    (out / "dag.yaml").write_text("cut: [")
    assert lay_out(dag, str(out)).dag.part_rows == 100
    asked = dataclasses.replace(dag, part_rows=7)
    assert lay_out(asked, str(out)).dag.part_rows == 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensors(Read):
    """A source of the user's own, whose sizes are whatever they are."""

    rows: int | None = None

    def manifest(self) -> list[ManifestEntry]:
        return [{"name": "sensors", "size": 3, "modified": ""}]

    def estimate_rows(self) -> int | None:
        return self.rows


@pytest.mark.parametrize(("rows", "size"), [(None, 1_000), (64_000, 1_000), (640_000, 10_000)])
def test_a_user_s_source_that_counts_nothing_is_cut_in_thousands(
    rows: int | None, size: int, tmp_path: Path
) -> None:
    nodes = {"source": Node(Sensors(rows=rows)), "keep": Node(Keep(rules={}), ("source",))}
    assert lay_out(Dag("mine", nodes), str(tmp_path / "run")).dag.part_rows == size


def test_where_nobody_counted_rows_bytes_decide(tmp_path: Path) -> None:
    dag, folder = toy_dag(part_rows=0), Folder(str(tmp_path))
    manifest = [{"name": "a.tar", "size": 640_000 * 50_000, "modified": ""}]
    found = with_part_size(dag, folder, manifest, lambda: None, 20_000)  # type: ignore[arg-type]
    assert found.part_rows == 10_000
