"""Notebooks run from top to bottom, at the small sizes they are written with, and show what is
stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from notebook_cells import NOTEBOOKS, outputs, run_cell, source_of

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
AGAIN = "store it anew: python tests/notebook_cells.py"


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


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text())["cells"]
    # Stages that run in child processes import by the name of their module.
    names: dict[str, Any] = {"__name__": path.stem}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    for number, cell in enumerate(code, 1):
        shown = outputs(*run_cell(source_of(cell), str(path), names), number)
        stored = cell["outputs"]
        assert [kind(one) for one in stored] == [kind(one) for one in shown], AGAIN
        if not cell["metadata"].get("varies"):
            assert stored == shown, AGAIN
    EXPECTED[path.stem](names)


def kind(output: dict[str, Any]) -> tuple[str, ...]:
    """What a cell shows, but for its content."""
    return (output["output_type"], *output.get("data", ()))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_outputs_are_whole_small_and_of_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 400_000
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any(cell["outputs"] for cell in code)
    shown = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"/(home|root|tmp|work|Users)/|127\.0\.0\.1|0x[0-9a-f]{6}|Error", shown)
