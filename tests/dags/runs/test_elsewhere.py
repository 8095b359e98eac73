"""A finished run is read from any folder, whatever relative paths its stages were given."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.runs.export import read_columns
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.trace import trace_sample
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Score


@dataclass(frozen=True, kw_only=True)
class Vectors(Score):
    """As wide as a file says, as a model's embeddings are as wide as its configuration says."""

    path: str = "width.txt"

    def reads(self) -> tuple[str, ...]:
        return ("uid",)

    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def writes(self) -> pa.Schema:
        width = int(Path(self.path).read_text())
        return pa.schema([pa.field("vector", pa.list_(pa.float16(), width))])

    def score(self, table: pa.Table, images: Sequence[object] | None) -> pa.Table:
        field = self.writes().field(0)
        rows = np.zeros(len(table) * field.type.list_size, np.float16)
        return pa.table(
            [pa.FixedSizeListArray.from_arrays(rows, field.type.list_size)], schema=self.writes()
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "width.txt").write_text("4")
    (home / "pictures").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        cv2.imwrite(str(home / "pictures" / f"{i}.png"), pixels)
    nodes = {
        "source": Node(Source(path="pictures")),
        "download": Node(Download(image_size=32), ("source",)),
        "vectors": Node(Vectors(), ("download",)),
        "keep": Node(Keep(rules={"tiny": "width < 8"}), ("vectors",)),
        "shards": Node(Shards(), ("keep",)),
    }
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with contextlib.chdir(home):
        execute(Dag("elsewhere", nodes), "run", options, make_progress(plain=True))
    return home / "run"


def test_every_reader_works_from_another_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = str(finished)
    assert verify_run(out) == []
    assert gather_report(out).rows_in == 3
    tables = list(read_columns(out, ["vector"]))
    assert sum(len(table) for table in tables) == 3 and Path.cwd() == tmp_path
    uid = tables[0]["uid"][0].as_py()
    assert [one.uid for one in trace_sample(out, uid)] == [uid]
    assert forget(out, [("uid", uid)]).uids == [uid]
