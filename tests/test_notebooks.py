"""Notebooks run from top to bottom, at the small sizes they are written with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _scored(names: dict[str, Any]) -> None:
    assert len(names["table"]) == 8 and "sharpness" in names["table"].column_names


def _drawn(names: dict[str, Any]) -> None:
    summary = names["summary"]
    assert summary["ledger_ok"] and 40 <= summary["kept"] < summary["rows_in"]
    assert names["result"].last_loss < names["result"].first_loss
    assert Path("sheet.png").exists() and np.ptp(names["sheet"]) > 100


def _cut(names: dict[str, Any]) -> None:
    assert names["videos"]["cuts"].to_pylist() == [names["cuts"]]
    assert names["clips"]["status"].to_pylist() == ["success"] * 2
    assert names["document"]["image_places"] == [1, 3]
    changed, same = names["facts"]
    assert changed["change_share"] > 0.005 > same["change_share"] == 0


EXPECTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "score_a_table": _scored,
    "clips_documents_and_pairs": _cut,
    "from_urls_to_a_drawn_picture": _drawn,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text())["cells"]
    # Stages that run in child processes import by the name of their module.
    names: dict[str, Any] = {"__name__": path.stem}
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    for source in code:
        exec(compile(source, str(path), "exec"), names)
    EXPECTED[path.stem](names)
