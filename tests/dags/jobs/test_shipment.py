"""What a job takes along: the user's files, this package, the command."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command import gristmill

from gristmill import __version__, cli
from gristmill.dags.engine.stage_code import ShippedCode
from gristmill.dags.jobs import package_files
from gristmill.dags.jobs.package_files import copy_package, write_wheel
from gristmill.dags.jobs.shipment import Shipment, pack
from gristmill.errors import ConfigurationError
from gristmill.run_arguments import make_dag

STAGE = """
from dataclasses import dataclass
import pyarrow as pa
from gristmill.pipelines.stage import Score
from words import LIMIT

@dataclass(frozen=True, kw_only=True)
class Words(Score):
    def reads(self):
        return ("caption",)
    def writes(self):
        return pa.schema([pa.field("words", pa.int32())])
    def score(self, table, images):
        return pa.table([[LIMIT] * len(table)], schema=self.writes())
"""
DAG = """
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.sources.source import Source
from job_stage import Words

def made():
    return Dag("made", {"source": Node(Source(path="s3://bucket/a.parquet")),
                        "words": Node(Words(), ("source",))})
"""
YAML = """
name: written
nodes:
  source: {stage: Source, path: "s3://bucket/a.parquet"}
  words: {stage: "job_stage:Words", inputs: [source]}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, with modules and YAML, from which commands are given."""
    folder = tmp_path / "mine"
    (folder / "dags").mkdir(parents=True)
    (folder / "job_stage.py").write_text(STAGE)
    (folder / "words.py").write_text("LIMIT = 7\n")
    (folder / "job_dag.py").write_text(DAG)
    (folder / "dags" / "written.yaml").write_text(YAML)
    (folder / "secret.txt").write_text("stays here")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    for name in ("job_stage", "words", "job_dag"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def packed(recipe: str, folder: Path, package: str = "image", *options: str) -> Shipment:
    folder.mkdir()
    dag = make_dag(recipe, None, None, None, None, None, None)
    return pack(recipe, dag, "s3://b/r", options, package, folder)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("recipe", "name", "travels"),
    [
        ("job_dag:made", "job_dag:made", {"job_dag.py", "job_stage.py", "words.py"}),
        ("dags/written.yaml", "written.yaml", {"written.yaml", "job_stage.py", "words.py"}),
    ],
)
def test_the_files_of_a_recipe_travel_and_no_others(
    mine: Path, tmp_path: Path, recipe: str, name: str, travels: set[str]
) -> None:
    shipment = packed(recipe, tmp_path / "shipment")
    work = Path(shipment.runtime_env["working_dir"])
    assert names(work) == travels
    assert f" gristmill run {name} " in shipment.entrypoint
    # On a node nothing else is there.
    found = subprocess.run(
        [sys.executable, "-m", "gristmill", "plan", name, "--out", "x", "--yaml"],
        cwd=work, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "job_stage:Words" in found.stdout


def test_two_files_of_one_name_are_refused(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"/here": {"stages.py": b"1"}, "/there": {"stages.py": b"2"}}
    monkeypatch.setattr(
        "gristmill.dags.jobs.user_files.shipped_code", lambda dag: ShippedCode(both, {})
    )
    with pytest.raises(ConfigurationError, match=r"two files of the recipe are called stages\.py"):
        packed("image-text", tmp_path / "shipment")


def test_the_package_travels_as_plain_files(tmp_path: Path) -> None:
    first = copy_package(tmp_path / "a")
    assert not any(path.is_symlink() for path in first.rglob("*"))
    found = names(first)
    assert {"dags/jobs/ray_jobs.py", "catalogs/cc12m.yaml", "dags/reports/report.html.j2"} <= found
    assert not any("__pycache__" in name for name in found)
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "catalog", "show", "cc12m"],
        env=os.environ | {"PYTHONPATH": str(first.parent)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Conceptual" in done.stdout


def test_what_the_page_is_built_of_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages of npm beside its sources are more than a cluster takes."""
    root = tmp_path / "here" / "gristmill"
    for name in ("errors.py", "dags/page/src/page.js", "dags/page/node_modules/big/index.js"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    monkeypatch.setattr(package_files.errors, "__file__", str(root / "errors.py"))
    sent = copy_package(tmp_path / "sent")
    names = {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()}
    assert names == {"errors.py", "dags/page/src/page.js"}


def test_the_wheel_installs(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert "gristmill/model/network/transformer.py" in archive.namelist()
    again = tmp_path / "again"
    again.mkdir()
    assert write_wheel(again).read_bytes() == wheel.read_bytes()
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True)
    assert (site / "bin" / "gristmill").exists()
    metadata = next(site.glob("*.dist-info")) / "METADATA"
    assert "Requires-Dist: ray" in metadata.read_text()


def test_the_ways_of_the_package(mine: Path, tmp_path: Path) -> None:
    code = packed("image-text", tmp_path / "code", "code", "--source=s3://b/a.parquet")
    assert code.runtime_env["py_modules"] == [str(tmp_path / "code" / "gristmill")]
    assert "working_dir" not in code.runtime_env
    assert code.entrypoint == (
        "python -m gristmill run image-text --source=s3://b/a.parquet --address auto --plain"
    )
    wheel = packed("image-text", tmp_path / "wheel", "wheel", "--out=s3://b/r")
    (requirement,) = wheel.runtime_env["pip"]
    assert requirement.endswith(f"/gristmill-{__version__}-py3-none-any.whl[s3]")
    image = packed("image-text", tmp_path / "image")
    check = image.entrypoint.partition(" && ")[0]
    assert subprocess.run(check.replace("python", sys.executable, 1), shell=True).returncode == 0
    other = check.replace("python", sys.executable, 1).replace(__version__, "9.9")
    said = subprocess.run(other, shell=True, capture_output=True, text=True)
    assert said.returncode == 1 and "sent by 9.9" in said.stderr
    with pytest.raises(ConfigurationError, match="choose one of code, wheel, image"):
        packed("image-text", tmp_path / "x", "egg")


def test_submit_takes_what_run_takes() -> None:
    """But for what only the machine of the driver can know."""
    commands = {c.callback.__name__: c.callback for c in cli.app.registered_commands if c.callback}
    run, submit = (commands[name].__annotations__ for name in ("run", "submit"))
    here = {"runner", "debug", "plain", "address", "return"}
    assert {n: str(k) for n, k in run.items() if n not in here}.items() <= {
        n: str(k) for n, k in submit.items()
    }.items()


def test_a_command_is_said_again_word_for_word(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Shipment] = []

    class Cluster:
        address = "http://head:8265"

        def submit(self, shipment: Shipment) -> str:
            assert Path(shipment.runtime_env["working_dir"]).is_dir()
            sent.append(shipment)
            return "gristmill-1"

    monkeypatch.setattr("gristmill.cli_jobs._connect", lambda address: Cluster())
    done = gristmill(
        "submit", "job_dag:made", "--out", "s3://b/my run", "--set", "keep.rules={'a': \"b < 1\"}",
        "--column", "caption=TEXT", "--column", "url=U", "--limit", "5", "--retry-failed",
        "--source", "s3://b/x.parquet", "--address", "http://head:8265", "--no-wait",
        "--package", "image",
    )  # fmt: skip
    assert done.returncode == 2 and "no node 'keep'" in done.stderr
    done = gristmill(
        "submit", "job_dag:made", "--out", "s3://b/my run", "--set", "source.name=it's",
        "--column", "caption=TEXT", "--column", "url=U", "--limit", "5", "--retry-failed",
        "--source", "s3://b/x.parquet", "--address", "http://head:8265", "--no-wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gristmill attach gristmill-1 --address http://head:8265" in done.stderr
    assert sent[0].entrypoint == (
        "python -m gristmill run job_dag:made '--out=s3://b/my run' --source=s3://b/x.parquet "
        "--column=caption=TEXT --column=url=U '--set=source.name=it'\"'\"'s' --limit=5 "
        "--retry-failed --address auto --plain"
    )
    assert sent[0].metadata["out"] == "s3://b/my run"
