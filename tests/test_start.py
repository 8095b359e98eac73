"""Starting a run: what cannot work is one line, before anything is written or downloaded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_stages import ToyRows, ToyWeights

from gristmill.cli import main
from gristmill.dags.engine.check_weights import WeightsCheck
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_folder import require_run_folder
from gristmill.dags.graph import Dag, Node
from gristmill.errors import ConfigurationError, MissingWeightsError, SourceError
from gristmill.model.checkpoints.checkpoint import require_training_folder
from gristmill.pipelines.images.embedding_heads import EmbeddingHeads
from gristmill.pipelines.sources import delimited
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source import Source


class Said(NamedTuple):
    code: int
    out: str
    err: str


Gristmill = Callable[..., Said]


@pytest.fixture
def gristmill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Gristmill:
    """The command line, in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["gristmill", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return call


def one_line(said: Said) -> str:
    assert said.code == 2 and said.err.count("\n") == 1, said.err
    return said.err


# -- --out ----------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "image-text", "--source", "urls.csv", "--runner", "local"),
        ("plan", "image-text", "--source", "urls.csv"),
        ("demo",),
        ("demo", "edit"),
        ("train", "tiny", "--data", "nowhere"),
        ("train-filter", "--source", "nowhere"),
    ],
)
def test_a_folder_of_somebody_s_own_files_is_left_alone(
    arguments: tuple[str, ...], gristmill: Gristmill, tmp_path: Path
) -> None:
    (tmp_path / "urls.csv").write_text("url,caption\nhttps://a.test/1.jpg,a dog\n")
    (tmp_path / "mine/shards").mkdir(parents=True)
    (tmp_path / "mine/shards/00000000.tar").write_bytes(b"precious")
    (tmp_path / "mine/dag.yaml").write_text("# my own notes")
    before = listing(tmp_path)
    said = one_line(gristmill(*arguments, "--out", "mine"))
    assert "dag.yaml, shards; nothing was written: give another --out" in said
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo",),
        ("train", "tiny", "--data", "nowhere"),
        ("train-codec", "kmeans", "--data", "nowhere"),
        ("train-tokenizer", "--data", "nowhere"),
    ],
)
def test_a_place_that_cannot_be_a_folder_is_one_line(
    arguments: tuple[str, ...], gristmill: Gristmill, tmp_path: Path
) -> None:
    (tmp_path / "urls.csv").write_text("url,caption\nhttps://a.test/1.jpg,a dog\n")
    for out in ("urls.csv/x/run", "urls.csv/x"):
        assert "urls.csv is a file" in one_line(gristmill(*arguments, "--out", out))
    # Nobody, not even root, can make a folder there.
    said = one_line(gristmill(*arguments, "--out", "/proc/gristmill/run"))
    assert "cannot be written" in said


def test_runs_and_trainings_know_their_folders_again(tmp_path: Path) -> None:
    for require, marks in (
        (require_run_folder, ("nodes", "run.lock", "run.json")),
        (require_training_folder, ("checkpoints", "model.json", "log.jsonl")),
    ):
        require(str(tmp_path / "new"))
        for mark in marks:
            folder = tmp_path / f"{require.__name__}-{mark}"
            (folder / mark).mkdir(parents=True)
            (folder / "shards").mkdir()
            require(str(folder))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / ".DS_Store").touch()
    (hidden / "pilot").mkdir()
    require_run_folder(str(hidden))
    (hidden / "notes.txt").touch()
    with pytest.raises(ConfigurationError, match=r"holds no run: notes\.txt; nothing was written"):
        require_run_folder(str(hidden))
    os.remove(hidden / "notes.txt")


# -- the source's header --------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    """Three pictures with captions that no default rule minds."""
    folder.mkdir(parents=True)
    for i, words in enumerate(("a red fox in snow", "two boats at dawn", "an old stone bridge")):
        pixels = np.random.default_rng(i).integers(0, 255, (90, 100, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        (folder / f"{i}.txt").write_text(words)


def table(path: Path, columns: dict[str, list[object]]) -> str:
    """Columns as a file of the kind that its ending names."""
    made = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(made, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in made.to_pylist()))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        lines = [columns, *([row[name] for name in columns] for row in made.to_pylist())]
        path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_table_without_addresses_or_with_another_name_is_known_by_its_header(
    ending: str, kind: str, tmp_path: Path
) -> None:
    path = table(tmp_path / f"a.{ending}", {"my_link": ["https://a.test/1"], "TEXT": ["a dog"]})
    with pytest.raises(SourceError, match=r"among my_link, TEXT; name it with --column url=my_li"):
        Source(path=path, kind=kind).check_columns()
    Source(path=path, kind=kind, columns={"url": "my_link"}).check_columns()
    mapped = {"url": "my_link", "caption": "TXET"}
    message = r"has no column 'TXET'; did you mean 'TEXT'\? its columns: my_link, TEXT"
    with pytest.raises(SourceError, match=message):
        Source(path=path, kind=kind, columns=mapped).check_columns()
    with pytest.raises(SourceError, match="rows have no 'captoin'; did you mean 'caption'"):
        Source(path=path, kind=kind, columns={"captoin": "TEXT"}).check_columns()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_pairs_and_documents_are_known_by_their_names(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"a.{ending}", {"before": ["a.png"], "edited": ["b.png"], "say": ["x"]})
    with pytest.raises(SourceError, match="no column for instruction among"):
        DocumentSource(path=path, kind="pair").check_columns()
    with pytest.raises(SourceError, match="did you mean 'say'"):
        DocumentSource(path=path, kind="pair", columns={"instruction": "sya"}).check_columns()
    DocumentSource(path=path, kind="pair", columns={"instruction": "say"}).check_columns()
    with pytest.raises(SourceError, match="holds no documents: its columns are before"):
        DocumentSource(path=path).check_columns()


def test_a_line_that_lacks_a_name_does_not_condemn_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('broken\n{"caption": "a"}\n{"url": "https://a.test/1"}\n')
    Source(path=str(tmp_path / "a.jsonl")).check_columns()


def test_headers_of_globs_and_catalog_entries_are_looked_at_and_few(
    gristmill: Gristmill, tmp_path: Path
) -> None:
    for i in range(60):
        name = "url" if i < 59 else "nothing"
        table(tmp_path / f"{i:02d}.csv", {name: ["https://a.test/1"], "TEXT": ["a dog"]})
    common = ("image-text", "--out", "run", "--source")
    assert "59.csv has no URL column" in one_line(gristmill("plan", *common, "*.csv"))
    table(tmp_path / "a.parquet", {"URLS": ["https://a.test/1"], "TEXT": ["a dog"]})
    said = one_line(gristmill("run", *common, "catalog:relaion400m@a.parquet"))
    assert "has no column 'URL'; did you mean 'URLS'" in said and not (tmp_path / "run").exists()
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        reading = delimited.Lines
        patch.setattr(delimited, "Lines", lambda url: opened.append(url) or reading(url))
        Source(path="[0-4]*.csv").check_columns()
    assert len(opened) == 20


def test_a_source_that_was_read_is_not_opened_again(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"url": ["https://a.test/1"], "TEXT": ["a dog"]})
    dag = Dag("small", {"source": Node(Source(path=path))})
    execute(dag, str(tmp_path / "run"), RunOptions(runner="local"), Progress())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "Lines", None)
        execute(dag, str(tmp_path / "run"), RunOptions(runner="local"), Progress())


# -- weights --------------------------------------------------------------------------------------


def test_weights_are_looked_for_before_the_source_is_read_and_doing_without_is_said(
    gristmill: Gristmill, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures")
    common = ("image-text", "--source", "pictures", "--out", "run")
    planned = gristmill("plan", *common)
    assert planned.code == 0
    assert "needed by clip: weights ViT-B-32 datacomp_xl_s13b_b90k (not in the cache" in planned.out
    start = ("run", *common, "--runner", "local", "--plain")
    failed = gristmill(*start)
    assert failed.code == 2 and failed.err.count("\n") == 1
    assert "HF_HUB_OFFLINE forbids" in failed.err
    assert "(--set clip.pretrained=PATH, or --without clip)" in failed.err
    assert not (tmp_path / "run/nodes").exists()
    # The language of captions is told by code that takes seconds to load.
    start = (*start, "--without", "language")
    done = gristmill(*start, "--without", "clip")
    assert done.code == 0, done.err
    assert "without clip: keep: rule 'weak caption match' left out, it names clip_score" in done.err
    assert "3 of 3 rows kept" in done.out
    # Such a run goes on, is chosen from anew, reported and verified like any other.
    assert "nothing to do" in gristmill(*start, "--without", "clip").out
    assert "without clip: left out" in gristmill("status", "run").out
    assert gristmill("keep", "run", "--rule", "few=caption_words < 3").code == 0
    assert gristmill("report", "run").code == 0 and gristmill("verify", "run").code == 0


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_missing_weights_are_seen_where_the_workers_run(
    runner: str, tmp_path: Path, ray_session: None
) -> None:
    seen = tmp_path / "seen"
    seen.touch()
    dag = Dag(
        "toy",
        {
            "rows": Node(ToyRows()),
            "length": Node(ToyWeights(path=str(tmp_path / "weights"), seen=str(seen)), ("rows",)),
        },
    )
    options = RunOptions(runner=runner)
    with pytest.raises(MissingWeightsError, match=r"'length': no weights.*--without length"):
        execute(dag, str(tmp_path / "run"), options, Progress())
    assert not (tmp_path / "run/nodes").exists()
    assert (seen.read_text() == str(os.getpid())) == (runner == "local")
    (tmp_path / "weights").touch()
    execute(dag, str(tmp_path / "run"), options, Progress())
    # What is done needs no weights.
    (tmp_path / "weights").unlink()
    execute(dag, str(tmp_path / "run"), options, Progress())


def test_a_file_that_only_the_driver_has_is_named_with_the_machine(tmp_path: Path) -> None:
    head = tmp_path / "head.safetensors"
    dag = Dag("x", {"rows": Node(ToyRows()), "heads": Node(EmbeddingHeads(heads={"a": str(head)}))})
    said = WeightsCheck(dag, ("heads",))()
    assert f"node 'heads': {head} does not exist on " in said and "--without heads" in said


# -- own files ------------------------------------------------------------------------------------


SMALL = """
dag: small
nodes:
  source: {stage: Source}
  download: {stage: Download, inputs: source, image_size: 32}
  keep: {stage: Keep, inputs: download, rules: {few: "caption IS NOT NULL"}}
"""


def test_own_files_are_known_by_their_paths(gristmill: Gristmill, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures/sub")
    (tmp_path / "pictures/sub/broken.jpg").write_bytes(b"nothing")
    (tmp_path / "small.yaml").write_text(SMALL)
    start = ("run", "small.yaml", "--source", "pictures", "--out", "run", "--runner", "local")
    assert gristmill(*start).code == 0
    ledger = pq.read_table(tmp_path / "run/ledger/000000.parquet").to_pylist()
    names = sorted(str(p) for p in (tmp_path / "pictures/sub").iterdir() if p.suffix != ".txt")
    assert sorted(row["path"] for row in ledger) == names
    for wanted in ("sub/0.png", "pictures/sub/0.png", names[0]):
        # Wherever a terminal breaks the lines.
        said = "".join(gristmill("trace", "run", wanted).out.split())
        assert names[0] in said and "droppedbykeep:few" in said
    assert "broken.jpg" in gristmill("trace", "run", "broken.jpg").out
    assert "broken.jpg" in (tmp_path / "run/report.html").read_text()
    lost = gristmill("trace", "run", "ken.jpg")
    assert "has the uid, URL or path 'ken.jpg'" in one_line(lost)


# -- settings -------------------------------------------------------------------------------------


def test_one_value_for_a_list_says_how_a_list_is_written(gristmill: Gristmill) -> None:
    train = ("train-codec", "kmeans", "--data", "nowhere", "--set")
    assert "sizes is a list, e.g. sizes=[128]" in one_line(gristmill(*train, "sizes=128"))


def test_a_choice_is_checked_with_the_plan(gristmill: Gristmill, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    plan = ("plan", "image-text", "--source", "pictures", "--out", "run", "--set")
    assert "choose one of webdataset, parquet" in one_line(gristmill(*plan, "shards.format=tar"))
    done = gristmill(*plan, "keep.rules.few=true", "--without", "clip")
    assert "needed: " in " ".join(done.out.splitlines()[-2:])
