"""A newcomer's first stages: the examples of ARCHITECTURE.md, as printed, on both runners."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.recipes.find import find_dag
from gristmill.pipelines.shards.reader import ShardSet

PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"
FILES = ("redness", "halves", "redness_rank", "my_dag")


def examples() -> dict[str, str]:
    """File name -> text, of the section about adding a stage."""
    section = PAGE.read_text().partition("\n## Adding a stage\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return {block.split("\n")[0].removeprefix("# "): block for block in blocks}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where somebody has just written down the four files, and has nine pictures."""
    for name, text in examples().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pictures").mkdir()
    for i in range(9):
        pixels = np.random.default_rng(i).integers(0, 255, (24, 20 if i == 4 else 64, 3), np.uint8)
        # More red to the right, and from picture to picture; OpenCV's red comes last.
        pixels[:, 32:, 2] = 200 + 5 * i
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), pixels)
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"noise number {i}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def test_the_examples_of_the_page_run_and_write_the_same_bytes(
    folder: Path, ray_session: None
) -> None:
    assert set(examples()) == {f"{name}.py" for name in FILES}
    written = {}
    for runner in ("local", "ray"):
        out = folder / runner
        # Parts of four rows, so that the Global has something to gather.
        dag = find_dag("my_dag:reds", {"path": "pictures"})
        dag = type(dag)(dag.name, dag.nodes, part_rows=4)
        options = RunOptions(
            runner=runner, supervision=Supervision(isolate=runner == "ray", row_deadline_s=60.0)
        )
        summary = execute(dag, str(out), options, make_progress(plain=True))
        assert summary["ledger_ok"] and summary["dropped"]["halves"] == {"too narrow": 1}
        assert summary["dropped"]["keep"] == {"not red": 8} and summary["kept"] == 8
        product = [*(out / "ledger").iterdir(), *(out / "shards").rglob("*.tar")]
        written[runner] = {str(f.relative_to(out)): f.read_bytes() for f in product}
    assert written["local"] == written["ray"] and len(written["ray"]) >= 4
    samples = list(ShardSet(str(folder / "ray" / "shards")))
    assert len(samples) == 8 and {sample.columns["width"] for sample in samples} == {32}
    kept = pq.read_table(folder / "ray" / "ledger").to_pylist()
    ranks = sorted(row["redness_rank"] for row in kept if row["verdict"] == "kept")
    assert ranks == pytest.approx([i / 16 for i in range(8, 16)], abs=1e-5)
