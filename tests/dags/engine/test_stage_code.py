"""A stage of the user's own: its code is in its fingerprint, and goes with it to the workers."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_stages import STAGES as OWN_STAGES
from own_stages import WORDS, loaded, write, write_project
from toy_stages import ToyDraw, ToyRows

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.fingerprint import fingerprints, stage_identity
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.stage_code import code_digest, shipped_code
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import ConfigurationError
from gristmill.pipelines import STAGES, stage_class
from gristmill.pipelines.stage import Stage
from gristmill.pipelines.tokens.tokens import Tokens


def dag(stage: Stage) -> Dag:
    nodes = {
        "rows": Node(ToyRows(rows=8)),
        "draw": Node(ToyDraw(), ("rows",)),
        "mine": Node(stage, ("draw",)),
    }
    return Dag("mine", nodes, part_rows=16)


def digest_of(folder: Path, module: str = "own_score", name: str = "LongWords") -> str:
    with loaded(folder, module) as found:
        return code_digest(getattr(found, name)())


def test_stages_of_ours_are_what_they_were_before_code_was_looked_at() -> None:
    """The digests were made at commit aadaba1; library versions are this machine's, not ours."""
    before = json.loads(Path(__file__).with_name("identities.json").read_text())
    for name, digest in before.items():
        identity = stage_identity(stage_class(name)())
        identity["libraries"] = sorted(identity["libraries"])
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, name
    assert set(before) <= set(STAGES)


def test_an_edited_stage_has_another_fingerprint(tmp_path: Path) -> None:
    write_project(tmp_path)
    with loaded(tmp_path, "own_score") as own:
        first = fingerprints(dag(own.LongWords()))
    write(tmp_path, own_score=OWN_STAGES.replace("long_words(text)", "2 * long_words(text)"))
    with loaded(tmp_path, "own_score") as own:
        second = fingerprints(dag(own.LongWords()))
    assert {name for name in first if first[name] != second[name]} == {"mine"}


def test_what_it_imports_counts_and_what_lies_beside_it_does_not(tmp_path: Path) -> None:
    write_project(tmp_path / "a")
    write_project(tmp_path / "b")
    digest = digest_of(tmp_path / "a")
    assert digest_of(tmp_path / "b") == digest, "where the folder lies is nothing"
    write(tmp_path / "a", own_package="x = 1", conftest="y = 2")
    assert digest_of(tmp_path / "a") == digest
    # `own_words` is imported inside `score`, which never ran here.
    write(tmp_path / "a", own_words=WORDS.replace("LIMIT = 3", "LIMIT = 4"))
    assert digest_of(tmp_path / "a") != digest


def test_a_package_is_followed_through_its_relative_imports(tmp_path: Path) -> None:
    stages = OWN_STAGES.replace("from own_words", "from ..words.long")
    files = {
        "own_package.__init__": "",
        "own_package.stages.__init__": "",
        "own_package.stages.score": stages,
        "own_package.words.__init__": "",
        "own_package.words.long": WORDS,
        "own_package.words.unused": "",
    }
    write(tmp_path, **files)
    with loaded(tmp_path, "own_package.stages.score") as own:
        code = shipped_code(dag(own.LongWords()))
        digest = code_digest(own.LongWords())
    assert set(code.modules) - {"toy_stages"} == {
        name.removesuffix(".__init__") for name in files if "unused" not in name
    }
    write(tmp_path, **{"own_package.__init__": "import sys"})
    assert digest_of(tmp_path, "own_package.stages.score") != digest


def test_another_process_comes_to_the_same_digest(tmp_path: Path) -> None:
    write_project(tmp_path)
    program = (
        "import own_words, own_score; from gristmill.dags.engine.stage_code import code_digest;"
        "print(code_digest(own_score.LongWords()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of(tmp_path)


def test_a_file_that_was_changed_under_a_running_process_is_refused(tmp_path: Path) -> None:
    write_project(tmp_path)
    with loaded(tmp_path, "own_score") as own:
        code_digest(own.LongWords())
        write(tmp_path, own_score=OWN_STAGES + "\n    # changed\n")
        with pytest.raises(ConfigurationError, match=r"own_score\.py was changed after this"):
            code_digest(own.LongWords())


def test_code_that_a_field_names_counts(tmp_path: Path) -> None:
    write(tmp_path, own_words="def encoder(images, text): ...")
    with loaded(tmp_path, "own_words"):
        first = code_digest(Tokens(encoder="own_words:encoder"))
    write(tmp_path, own_words="def encoder(images, text): return 1")
    with loaded(tmp_path, "own_words"):
        assert first and code_digest(Tokens(encoder="own_words:encoder")) not in ("", first)
    assert code_digest(Tokens(encoder="gristmill.model.shard_tokens:ShardTokens")) == ""


def test_a_worker_without_the_files_gets_them(tmp_path: Path) -> None:
    write_project(tmp_path / "own")
    with loaded(tmp_path / "own", "own_score") as own:
        code = shipped_code(dag(own.LongWords()))
        (tmp_path / "code").write_bytes(pickle.dumps(code))
        (tmp_path / "stage").write_bytes(pickle.dumps(own.LongWords()))
    shutil.rmtree(tmp_path / "own")
    # The process goes on to another version of the same files, as a worker of Ray's may.
    write(tmp_path / "own", own_words=WORDS.replace("LIMIT = 3", "LIMIT = 0"), own_score=OWN_STAGES)
    with loaded(tmp_path / "own", "own_score") as own:
        (tmp_path / "other").write_bytes(pickle.dumps(shipped_code(dag(own.LongWords()))))
    shutil.rmtree(tmp_path / "own")
    program = """
import pickle, pyarrow as pa
for name in ("code", "other", "code"):
    pickle.load(open(name, "rb")).install()
    stage = pickle.load(open("stage", "rb"))
    print(stage(pa.table({"caption": ["a long word"]}))["long_words"].to_pylist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"TMPDIR": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["[2]", "[3]", "[2]"], done.stderr
    assert (tmp_path / next(tmp_path.glob("gristmill-code-*"))).stat().st_mode & 0o77 == 0


CELL = """
import pyarrow as pa
from dataclasses import dataclass
from gristmill.pipelines.stage import Score

SHORTEST = 3

def count(text):
    return sum(len(word) > SHORTEST for word in text.split())

@dataclass(frozen=True, kw_only=True)
class Words(Score):
    def reads(self): return ("caption",)
    def writes(self): return pa.schema([pa.field("words", pa.int32())])
    def score(self, table, images):
        return pa.table([[count(t) for t in table["caption"].to_pylist()]], schema=self.writes())
"""
NOTEBOOK = """
import linecache, sys
from pathlib import Path
from gristmill.dags.engine.stage_code import code_digest
from test_stage_code import run

def cell(number, text):
    name = f"<cell {number}>"
    if KEPT:
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), globals())

CELL = Path("cell").read_text()
cell(1, CELL)
first = code_digest(Words())
cell(2, "# a comment\\n" + CELL)
print(code_digest(Words()) == first)
for change in ("T = 3", "T = 4"), ("len(word) >", "len(word) >="), ("count(t)", "count(t + t)"):
    cell(3, CELL.replace(*change))
    print(code_digest(Words()) != first)
print(not KEPT or run(Words(), Path("out"))["ledger_ok"])
"""


def run(stage: Stage, out: Path, runner: str = "local") -> dict[str, object]:
    options = RunOptions(runner=runner, supervision=Supervision(row_deadline_s=60.0))
    summary: dict[str, object] = execute(dag(stage), str(out), options, make_progress(plain=True))
    return summary


@pytest.mark.parametrize("kept", [True, False], ids=["notebook", "shell"])
def test_a_stage_typed_into_a_notebook_runs_and_counts(tmp_path: Path, kept: bool) -> None:
    (tmp_path / "cell").write_text(CELL)
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK.replace("KEPT", str(kept))],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{here.parent}:{here.parents[2]}", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.split("\n")[-6:-1] == ["True"] * 5, done.stderr
