"""The command line as a user meets it; the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import gristmill as run

ROOT = Path(__file__).parents[1]
ROOMS = ("pipelines", "catalogs", "dags", "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (90, 100, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), pixels)
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"a picture of noise number {i}")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"nothing")
    return tmp_path


DAG = """
dag: small
part_rows: 4
nodes:
  source: {stage: Source, path: PATH}
  download: {stage: Download, inputs: source, image_size: 32}
  facts: {stage: CaptionFacts, inputs: [download]}
  keep: {stage: Keep, inputs: [facts], rules: {odd: "caption LIKE '%number 3'"}}
  shards: {stage: Shards, inputs: [keep]}
"""


def test_a_yaml_from_plan_to_clean(folder: Path) -> None:
    (folder / "dag.yaml").write_text(DAG.replace("PATH", "pictures"))
    common = ("dag.yaml", "--out", "run")
    planned = run("plan", *common, cwd=folder)
    assert planned.returncode == 0 and "5 of 5 nodes have work to do" in planned.stdout
    first = run("run", *common, "--runner", "local", "--plain", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "5 of 7 rows kept" in first.stdout
    again = run("run", *common, "--runner", "local", cwd=folder)
    assert "nothing to do" in again.stdout
    changed = ("run", *common, "--set", "keep.rules.odd=", "--runner", "local")
    assert "6 of 7 rows kept" in run(*changed, cwd=folder).stdout
    assert "nothing to do" in run("status", "run", cwd=folder).stdout
    assert "every shard can be read" in run("verify", "run", cwd=folder).stdout
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["kept"] == 6 and summary["ledger_ok"] and (folder / "run/report.html").exists()
    assert "freed" in run("clean", "run", cwd=folder).stdout
    assert "every shard can be read" in run("verify", "run", cwd=folder).stdout
    (folder / "run/shards/train/00000000.tar").write_bytes(b"")
    broken = run("verify", "run", cwd=folder)
    assert broken.returncode == 1 and "another digest" in broken.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "image-txt", "--out", "x"), "did you mean 'image-text'"),
        (("plan", "image-text", "--out", "x"), "give one with --source"),
        (("plan", "image-text", "--out", "x", "--source", "no.csv"), "no.csv does not exist"),
        (("plan", "no.yaml", "--out", "x"), "no.yaml does not exist"),
        (("plan", "image-text", "--out", "x", "--source", "catalog:cc12"), "did you mean 'cc12m'"),
        (("plan", "image-text", "--out", "x", "--source", "catalog:cc12m"), "catalog:cc12m@PATH"),
        (("status", "nowhere"), "holds no run"),
        (("plan", "image-text", "--out", "x", "--set", "clop.model=x"), "did you mean 'clip'"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_command_is_a_program_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "status", "nowhere"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    here = run("status", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, here.stdout, here.stderr)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; import gristmill.cli as c; c.app(['--help'], standalone_mode=False);"
        "print(sorted(m for m in ('torch', 'ray', 'duckdb', 'pyarrow', 'cv2') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")


def test_the_wheel_holds_every_room_and_imports(tmp_path: Path) -> None:
    # Of a copy: a build leaves folders of its own beside the sources.
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*ROOMS, "gristmill"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path)]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            assert f"gristmill/{file.relative_to(ROOT)}" in names
    assert {"gristmill/py.typed", "gristmill/catalogs/cc12m.yaml"} <= names
    assert {
        "gristmill/dags/reports/report.html.j2",
        "gristmill/dags/cluster/slurm.sh",
    } <= names
    program = (
        "import importlib, gristmill;"
        "[importlib.import_module(name) for name in sys.argv[1:]];"
        "print(gristmill.__file__)"
    )
    modules = sorted(
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in names
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    assert len(modules) > 180
    done = subprocess.run(
        [sys.executable, "-c", "import sys;" + program, *modules],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert str(tmp_path / "site") in done.stdout
