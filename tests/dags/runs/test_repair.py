"""A damaged run is made whole: the same bytes, or it is said what came out otherwise."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_damage import files_of_each_kind, flip, lasting, remove, rounds
from run_world import build_here, contents, options, run_here, wide_dag

from gristmill.dags.engine.progress import make_progress
from gristmill.dags.runs.clean import clean_run
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.plan import run_status
from gristmill.dags.runs.repair import Repaired, repair
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import RunError
from gristmill.pipelines.patience import PATIENCE


@pytest.fixture
def out(wide: Path) -> Path:
    """The run's folder, where it was run and as it was when it had finished: places are
    absolute."""
    shutil.rmtree(wide)
    shutil.copytree(wide.parent / "kept", wide)
    return wide / "run"


def mend(out: Path, **changes: bool) -> Repaired:
    with contextlib.chdir(out.parent), make_progress(None, True, log=None) as progress:
        return repair(str(out), options(), progress, **changes)


def one(out: Path, pattern: str) -> Path:
    return sorted(out.glob(pattern))[-1]


def test_every_kind_of_file_comes_back_with_its_bytes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python benchmarks/damage.py` damages each alone, and each in every way."""
    monkeypatch.setenv(PATIENCE, "0")
    before = lasting(out)
    kinds = list(files_of_each_kind(out))
    assert len(kinds) > 60
    for struck in rounds(kinds):
        names = files_of_each_kind(out)
        for kind, damage in struck:
            damage(out / names[kind])
        said = [(kind, damage.__name__) for kind, damage in struck]
        repaired = mend(out)
        assert repaired.found and not repaired.left and not repaired.otherwise, (said, repaired)
        after = lasting(out)
        assert {kind for kind in before if before[kind] != after.get(kind)} == set(), said
        assert set(after) == set(before), said


def test_a_sound_run_is_left_as_it_is(out: Path) -> None:
    assert mend(out, dry_run=True) == Repaired([])


def test_what_is_wrong_is_only_said_where_that_is_asked(out: Path) -> None:
    flip(one(out, "nodes/light-*/*.rows.parquet"))
    before = contents(out)
    (problem,) = mend(out, dry_run=True).found
    assert problem.startswith("node 'light': rows of part 2 has another digest")
    after = contents(out)
    assert {name: after[name] for name in before if name != "run.lock"} == {
        name: held for name, held in before.items() if name != "run.lock"
    }


def test_a_source_that_answers_otherwise_is_said(out: Path) -> None:
    remove(one(out, "nodes/download-*/000001-*.blobs.bin"))
    picture = out.parent / "pictures" / "05.png"
    when = picture.stat().st_mtime_ns
    cv2.imwrite(str(picture), np.full((20, 20, 3), 7, np.uint8))
    os.utime(picture, ns=(when, when))
    found = mend(out)
    assert not found.left
    assert found.otherwise[0].startswith("part 1 of download came out otherwise")


def test_a_lost_file_is_work_that_is_left_and_the_run_does_it(out: Path) -> None:
    before = lasting(out)
    remove(one(out, "nodes/light-*/000001-*.rows.parquet"))
    plan = {node.node: node for node in run_status(str(out)).nodes}
    assert plan["light"].done == 2 and plan["light"].has_work
    run_here(out.parent, wide_dag())
    assert clean_run(str(out)) > 0
    assert lasting(out) == before and verify_run(str(out)) == []


def test_without_graph_and_identity_nothing_is_known(out: Path) -> None:
    remove(out / "run.json")
    remove(out / "dag.yaml")
    with pytest.raises(RunError, match="what was run there is not known"):
        mend(out)


def test_a_run_of_a_time_before_seals_is_taken_up(out: Path) -> None:
    for path in out.rglob("*.json"):
        text = path.read_text()
        if text.startswith('{\n "sealed": 1,\n'):
            # As it was written then.
            old = text.replace(' "sealed": 1,\n', "", 1)
            path.write_text(old[: old.rindex(",\n")] + "\n}\n")
    for path in out.glob("nodes/*/saved/**/*.*.json"):
        path.unlink()
    for path in out.glob("nodes/*/phase-*/*.json"):
        path.write_text('{"seconds": 0.1}')
    assert verify_run(str(out)) == []
    build_here(choose(str(out), {"rules": {}}))
    assert verify_run(str(out)) == []
