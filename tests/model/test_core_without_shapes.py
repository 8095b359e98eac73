"""The world of shapes is a leaf: without it the model trains, loads and describes."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np

import gristmill.model

_PROGRAM = """
import importlib.abc, json, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("gristmill.model.shapes"):
            raise ModuleNotFoundError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
sys.path.insert(0, sys.argv[1])

import numpy as np
import torch
torch.set_num_threads(1)
from gristmill.model import load
from gristmill.model.sampling.decoding import Sampling
from gristmill.model.training.settings import train_config, with_codec
from gristmill.model.training.train import train

config = with_codec(train_config(
    size="nano", data=[sys.argv[1]], out=sys.argv[1] + "/out", paradigm="flow", experts="dense",
    codec="", encoder="", split="train", where="", tasks="draw=0.5,answer=0.5",
    questions="my_questions:about_colour", steps=2, rows=2, row_length=160, rate=1e-3, seed=0,
    settings=["text_vocabulary=300", "log_every=1", "precision=fp32"],
))
result = train(config)
model = load(config.out)
said = model.describe([np.zeros((30, 40, 3), np.uint8)], Sampling(temperature=0, longest=2))
left_out = not any(name.startswith("gristmill.model.shapes") for name in sys.modules)
print(json.dumps([result.steps, len(said), left_out]))
"""


def test_a_model_trains_loads_and_describes_without_the_leaf(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(12):
            picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
            for name, data in (
                (f"{number}.png", cv2.imencode(".png", picture)[1].tobytes()),
                (f"{number}.txt", f"a blue thing number {number}".encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (tmp_path / "my_questions.py").write_text(
        "def about_colour(caption):\n    return [('what colour?', caption.split()[1])]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[2, 1, true]"


def test_nothing_outside_the_leaf_names_it() -> None:
    [root] = gristmill.model.__path__
    files = [path for path in Path(root).rglob("*.py") if path.parent.name != "shapes"]
    assert len(files) > 40
    naming = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value] if " " not in node.value else []
            if any("shapes" in name for name in names):
                naming.append(f"{path.name}:{getattr(node, 'lineno', 0)}")
    assert naming == []
