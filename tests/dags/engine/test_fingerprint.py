"""Fingerprints: what decides a node's output is in, what only makes it faster is not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_run import toy_dag
from toy_stages import ToyBrightness, ToyDraw, ToyLength, ToyRows

from gristmill.dags.engine.fingerprint import (
    digest_path,
    fingerprint,
    fingerprints,
    stage_identity,
)
from gristmill.errors import ConfigurationError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import execution, setting


@dataclass(frozen=True, kw_only=True)
class Loads(ToyLength):
    """Loads a file; `workers` is for speed alone."""

    libraries = ("pyarrow", "no-such-distribution")
    path: str = ""
    workers: int = execution(4)

    def files(self) -> tuple[str, ...]:
        return (self.path,) if self.path else ()


@dataclass(frozen=True, kw_only=True)
class LoadsMore(Loads):
    """The same stage some releases on."""

    mode: str = setting("as before", choices=("as before", "new"), later=True)


def test_a_field_that_came_later_counts_once_it_is_set() -> None:
    before, after = (stage_identity(stage)["fields"] for stage in (Loads(), LoadsMore()))
    assert after == before
    assert stage_identity(LoadsMore(mode="new"))["fields"] != before


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("node", "stage", "affected"),
    [
        ("draw", ToyDraw(fails=()), {"draw", "bright", "length", "keep"}),
        ("length", ToyLength(kills=("x",)), {"length", "keep"}),
        ("keep", Keep(rules={"short": "length < 11"}), {"keep"}),
        ("bright", ToyBrightness(), set()),
        ("rows", ToyRows(rows=21, chunk=9), {"rows", "draw", "bright", "length", "keep"}),
    ],
)
def test_a_change_reaches_what_lies_below_it(node: str, stage: ToyRows, affected: set[str]) -> None:
    dag = toy_dag()
    assert changed(fingerprints(dag), fingerprints(dag.replace(node, stage))) == affected


def test_a_source_s_is_of_its_manifest_its_limit_and_the_size_of_parts() -> None:
    dag = toy_dag()
    first = fingerprints(dag)["rows"]
    assert all(len(text) == 64 and int(text, 16) for text in fingerprints(dag).values())
    other = [{"name": "toy", "size": 1, "modified": "yesterday"}]
    assert fingerprints(dag, manifest=other)["rows"] != first  # type: ignore[arg-type]
    assert fingerprints(dag, limit=3)["rows"] != first
    assert fingerprints(dataclasses.replace(dag, part_rows=9))["rows"] != first
    assert fingerprints(dag, manifest=ToyRows(rows=20).manifest())["rows"] == first


def test_speed_is_left_out_and_the_order_of_rules_is_not() -> None:
    assert stage_identity(Loads(workers=1)) == stage_identity(Loads(workers=9))
    rules = {"a": "length < 1", "b": "length < 2"}
    turned = dict(reversed(rules.items()))
    one, two = (fingerprint(Keep(rules=r), [], {}) for r in (rules, turned))
    assert one != two
    # The order in which inputs are named decides nothing.
    assert fingerprint(Keep(), ["a", "b"], {}) == fingerprint(Keep(), ["b", "a"], {})


def test_files_and_libraries_are_in(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"1")
    identity = stage_identity(Loads(path=str(folder)))
    assert identity["libraries"]["no-such-distribution"] == "absent"  # type: ignore[index]
    assert identity["files"] == {str(folder): digest_path(str(folder))}
    before = digest_path(str(folder))
    (folder / "a.bin").rename(folder / "b.bin")
    renamed = digest_path(str(folder))
    (folder / "b.bin").write_bytes(b"2")
    assert len({before, renamed, digest_path(str(folder))}) == 3
    assert digest_path(str(folder / "b.bin")) != digest_path(str(folder))
    with pytest.raises(ConfigurationError, match="does not exist, but a stage loads it"):
        stage_identity(Loads(path=str(tmp_path / "gone")))
