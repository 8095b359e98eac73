"""A Dag by name: what its function does not take is set on its source; what cannot be is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from own_stages import write
from toy_stages import ToyRows

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.graph import Dag, Node
from gristmill.dags.recipes.find import build_dag, find_dag
from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.sources.source import Source

PLAIN = Dag("mine", {"source": Node(Source(path="old.csv", name="old"))})
TOY = Dag("toy", {"rows": Node(ToyRows())})


def test_a_dag_that_is_ready_made_needs_no_function() -> None:
    assert find_dag(f"{__name__}:PLAIN", {"path": "a.csv"}).stage("source") == Source(
        path="a.csv", name="old"
    )


def takes_nothing() -> Dag:
    return PLAIN


def takes_the_path(path: str = "other.csv") -> Dag:
    return Dag("mine", {"source": Node(Source(path=path + ".gz"))})


def takes_all(**source: Any) -> Dag:
    return Dag("mine", {"source": Node(Source(**source))})


def needs_a_folder(folder: str) -> Dag:
    return takes_the_path(folder)


def returns_no_dag() -> str:
    return "dag"


def test_fields_go_to_the_function_else_to_the_source() -> None:
    fields = {"path": "new.csv", "columns": {"caption": "TEXT"}}
    for function, expected in {
        takes_nothing: Source(name="old", **fields),
        takes_the_path: Source(path="new.csv.gz", columns={"caption": "TEXT"}),
        takes_all: Source(**fields),
    }.items():
        assert build_dag("mine", function, fields).stage("source") == expected
    assert build_dag("mine", takes_nothing, {}) == PLAIN


@pytest.mark.parametrize(
    ("function", "fields", "message"),
    [
        (needs_a_folder, {"path": "x.csv"}, "mine needs 'folder', which nothing gives"),
        (returns_no_dag, {}, "mine returns a str; it must return a Dag"),
        (lambda: TOY, {"path": "x"}, r"source 'rows' \(toy_stages:ToyRows\) has no field 'path'"),
    ],
)
def test_what_cannot_be_set_is_named(function: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_dag("mine", function, fields)


def test_an_error_of_the_function_s_own_is_not_hidden() -> None:
    def broken() -> Dag:
        raise TypeError("mine alone")

    with pytest.raises(TypeError, match="mine alone"):
        build_dag("mine", broken, {"path": "x"})


def test_name_is_understood_as_dag_in_yaml() -> None:
    assert load_dag("name: x\nnodes: {s: {stage: Source}}").name == "x"
    with pytest.raises(GraphError, match="'dag' and 'name' say the same"):
        load_dag("name: x\ndag: x\nnodes: {}")


OWN_DAG = """
    from gristmill.dags.graph import Dag, Node
    from gristmill.pipelines.sources.source import Source

    def make():
        return Dag("mine", {"source": Node(Source())})

    made = make()
"""
OWN_YAML = "name: own\nnodes: {source: {stage: 'own_source:Mine'}}"
OWN_SOURCE = """
    from dataclasses import dataclass
    from gristmill.pipelines.sources.source import Source

    @dataclass(frozen=True, kw_only=True)
    class Mine(Source):
        pass
"""


@pytest.mark.parametrize("name", ["own_dag:make", "own.yaml"])
def test_the_working_folder_is_searched(name: str, tmp_path: Path) -> None:
    """As the command is called: its own folder, and not the working one, is on Python's path."""
    write(tmp_path, own_dag=OWN_DAG, own_source=OWN_SOURCE)
    (tmp_path / "own.yaml").write_text(OWN_YAML)
    (tmp_path / "rows.csv").write_text("url,caption\nhttp://a.test/1.jpg,a dog\n")
    command = [str(Path(sys.executable).with_name("gristmill")), "plan", name, "--out", "out"]
    done = subprocess.run(
        [*command, "--source", "rows.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1 nodes have work to do" in done.stdout


def test_what_is_not_there_is_named_and_what_breaks_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, own_broken="import nowhere_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, message in {
        "own_missing:make": f"no module 'own_missing' in {tmp_path}",
        "own_stages:make": "own_stages has no 'make'",
        "own_stages:": "write package.module:name",
        "own_stages:OWN": "is a tuple; name a function or a Dag",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            find_dag(name, {})
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        find_dag("own_broken:make", {})
