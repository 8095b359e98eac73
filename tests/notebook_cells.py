"""Runs the code cells of a notebook, and what they show; stores it: python tests/notebook_cells.py

No kernel: a cell is executed in this process, and its last expression is what it shows, as Jupyter
has it. A cell whose metadata have `"varies": true` shows times or learnt numbers, which another
machine need not repeat.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def source_of(cell: dict[str, Any]) -> str:
    """The code of a cell."""
    return "".join(cell["source"])


def run_cell(code: str, where: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell printed, and the value of its last expression (None: nothing to show)."""
    tree = ast.parse(code, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    return printed.getvalue(), value


def outputs(printed: str, value: Any, number: int) -> list[dict[str, Any]]:
    """Of a cell, in the notebook format."""
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"output_type": "stream", "name": "stdout", "text": lines(printed)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
            data["text/plain"] = ["a picture"]
        found.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "metadata": {},
                "data": data,
            }
        )
    return found


def lines(text: str) -> list[str]:
    """As the format stores text."""
    return text.splitlines(keepends=True)


def store(path: Path) -> None:
    """Run a notebook in an empty folder and write what its cells show into it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": path.stem}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code, 1):
            printed, value = run_cell(source_of(cell), path.name, names)
            cell["execution_count"] = number
            cell["outputs"] = outputs(printed, value, number)
    for cell in notebook["cells"]:
        cell["source"] = lines("".join(cell["source"]))
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]:
        store(NOTEBOOKS / f"{name}.ipynb")
