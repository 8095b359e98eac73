"""Choosing anew from a finished run, forgetting, and when a training saw a sample."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_world import World, make_world, planned

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.image_text import image_text
from gristmill.dags.runs.forget import forget, read_list
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.pilot import render_pilot, run_pilot
from gristmill.dags.runs.selections import SELECTIONS, find_selection
from gristmill.dags.settings import apply_settings
from gristmill.errors import ConfigurationError, GraphError, TrainingError
from gristmill.model.data.planner import Planner
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.training.sample_history import sightings
from gristmill.model.training.train import train
from gristmill.model.training.train_log import TrainLog, read_log
from gristmill.pipelines.keep import FORGOTTEN, Keep
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder
from gristmill.pipelines.subsets import read_subset, subset_file

ROWS = 30


def dag(folder: Path) -> Dag:
    return load_dag(
        f"""
dag: small
part_rows: 7
nodes:
  source: {{stage: Source, path: {folder}/pictures}}
  download: {{stage: Download, inputs: [source], image_size: 32}}
  facts: {{stage: CaptionFacts, inputs: [download]}}
  keep: {{stage: Keep, inputs: [facts], rules: {{odd: "caption LIKE '%number 3'"}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.0, samples_per_shard: 8}}
""",
        "test",
    )


def run(chosen: Dag, out: Path) -> dict[str, object]:
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    with make_progress(None, True, log=None) as progress:
        return execute(chosen, str(out), options, progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("run")
    (tmp_path / "pictures").mkdir()
    for i in range(ROWS):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{i:02d}.png"), pixels)
        (tmp_path / "pictures" / f"{i:02d}.txt").write_text(f"a picture of noise number {i}")
    run(dag(tmp_path), tmp_path / "run")
    return tmp_path


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The run for one test; its pictures lie where they were."""
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "pictures").symlink_to(finished / "pictures")
    return tmp_path


def captions(out: Path) -> set[str]:
    return {sample.caption for sample in ShardSet(str(out / "shards"))}


def test_another_selection_touches_nothing_and_is_reused(folder: Path) -> None:
    out = folder / "run"
    before = {name: Folder(str(out)).read_bytes(name) for name in ("dag.yaml", "summary.json")}
    choice = choose(str(out), {"rules": {"long": "caption_chars > 27"}})
    assert (choice.rows, choice.kept) == (ROWS, 10)
    assert choice.reasons == [("long", 20, "caption_chars > 27")]
    assert sum(len(uids) for uids in choice.uids()) == 10
    assert before == {name: Folder(str(out)).read_bytes(name) for name in before}
    assert len(captions(out)) == ROWS - 1
    # The shards of that selection: its verdicts are there already.
    summary = run(choice.layout.dag, out)
    assert summary["kept"] == 10 and len(captions(out)) == 10


def test_a_column_that_is_not_there_names_the_remedy(folder: Path) -> None:
    with pytest.raises(GraphError, match=r"(?s)near_target.*semantic.target="):
        choose(str(folder / "run"), {"rules": find_selection("image-based").rules})
    with pytest.raises(GraphError, match=r"(?s)clip_score.*same folder"):
        choose(str(folder / "run"), {"rules": find_selection("clip-top-30").rules})
    with pytest.raises(ConfigurationError, match="did you mean 'laion'"):
        find_selection("lion")


def test_every_selection_fits_the_recipe(tmp_path: Path) -> None:
    np.save(tmp_path / "target.npy", np.ones((2, 512), np.float32))
    settings = [f"semantic.target={tmp_path}/target.npy", "filter.model=ViT-B-32"]
    whole = apply_settings(image_text(path="x.parquet"), settings)
    for selection in SELECTIONS.values():
        Keep(rules=selection.rules).resolve_columns(whole.columns("keep"))
        for name in selection.needs:
            assert any(name in rule for rule in selection.rules.values())


def test_subsets_out_and_in(folder: Path, tmp_path: Path) -> None:
    out = str(folder / "run")
    choice = choose(out, {"rules": {"long": "caption_chars > 27"}})
    uids = [uid for part in choice.uids() for uid in part]
    np.save(tmp_path / "subset.npy", subset_file(uids))
    # As DataComp's resharder reads it.
    stored = np.load(tmp_path / "subset.npy")
    assert stored.dtype == np.dtype("u8,u8") and (np.sort(stored) == stored).all()
    assert sorted(read_subset(str(tmp_path / "subset.npy"))) == sorted(uids)
    again = choose(out, {"subset": str(tmp_path / "subset.npy"), "rules": {}})
    assert again.kept == len(uids)
    assert again.reasons == [("not in the subset", ROWS - len(uids), "")]
    np.save(tmp_path / "wrong.npy", np.zeros(3))
    with pytest.raises(ConfigurationError, match="two uint64"):
        choose(out, {"subset": str(tmp_path / "wrong.npy")})


def test_what_is_forgotten_is_skipped_then_gone_and_stays_gone(folder: Path) -> None:
    out = folder / "run"
    samples = {sample.caption: sample for sample in ShardSet(str(out / "shards"))}
    first, second = (samples[f"a picture of noise number {i}"] for i in (5, 17))
    (folder / "list.txt").write_text(f"# by digest\n{second.columns['sha256']}\n")
    wanted = [("uid", first.uid), *read_list(str(folder / "list.txt"))]
    found = forget(str(out), [*wanted, ("url", "http://nowhere.test/a.jpg")], "asked for")
    assert found.uids == sorted([first.uid, second.uid]) and found.skipped == 2
    assert found.unknown == ["url http://nowhere.test/a.jpg"]
    shards = ShardSet(str(out / "shards"))
    left = {sample.caption for sample in shards}
    assert len(shards) == len(left) == ROWS - 3
    assert not left & {first.caption, second.caption}
    assert verify_shards(str(out / "shards")) == []
    # The next build leaves them out, and the ledger says why.
    summary = run(choose(str(out), {}).layout.dag, out)
    assert summary["kept"] == ROWS - 3 and summary["ledger_ok"]
    assert summary["dropped"]["keep"][FORGOTTEN] == 2  # type: ignore[index]
    assert not (out / "shards" / "forgotten.json").exists()
    assert captions(out) == left
    # So does any other selection of the run.
    assert choose(str(out), {"rules": {}}).kept == ROWS - 2
    with pytest.raises(ConfigurationError, match="32 hex digits"):
        forget(str(out), [("uid", "abc")])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_the_steps_that_saw_a_sample(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "x", steps=6, save_every=6)
    train(config, TrainLog(config.out, quiet=True))
    uids = [sample.uid for sample in ShardSet(world.shards)]
    found = sightings(config.out, uids, world.shards)
    assert found.steps == 6 and not found.unknown
    # Every document of every step is accounted for: what a training logs is what we find.
    steps = [step for at in found.seen.values() for step in at]
    assert set(steps) == set(range(1, 7))
    assert sightings(config.out, ["0" * 32]).seen == {}
    seen = min(found.seen, key=lambda uid: found.seen[uid][0])
    # A longer training of the same saw the same, and more.
    longer = dataclasses.replace(config, steps=8)
    train(longer, TrainLog(longer.out, quiet=True))
    assert sightings(longer.out, [seen]).seen[seen][: len(found.seen[seen])] == found.seen[seen]


def test_shards_that_were_written_anew_are_not_learnt_from_without_a_word(
    folder: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`keep --shards` writes them in place, as between two trainings."""
    out = str(folder / "run")
    config = world.config(tmp_path / "x", steps=3, save_every=3)
    source = DataSource(url=out, tasks={"draw": 0.5, "describe": 0.5})
    config = dataclasses.replace(config, data=(source,))
    train(config, TrainLog(config.out, quiet=True))
    uids = [sample.uid for sample in ShardSet(f"{out}/shards")]
    assert sightings(config.out, uids).seen
    run(choose(out, {"rules": {"long": "caption_chars > 27"}}).layout.dag, folder / "run")
    longer = dataclasses.replace(config, steps=6)
    said = rf"shards of {out} are others than until step 3: .*--accept-changed-data"
    with pytest.raises(TrainingError, match=said) as raised:
        train(longer, TrainLog(longer.out, quiet=True))
    assert "\n" not in str(raised.value)
    assert len(read_log(longer.out)) == 3
    accepted = dataclasses.replace(longer, accept_changed_data=True)
    train(accepted, TrainLog(longer.out))
    assert [line["data_from"] for line in read_log(longer.out)] == [0, 0, 0, 3, 3, 3]
    assert "others than until step 3" in capsys.readouterr().err
    found = sightings(longer.out, uids)
    assert found.steps == 6 and not found.seen and "changed after step 3" in found.unknown
    # What was accepted is what it goes on with, without being asked again.
    train(dataclasses.replace(longer, steps=7), TrainLog(longer.out, quiet=True))
    assert read_log(longer.out)[-1]["data_from"] == 3


def test_the_trainer_skips_what_is_forgotten(world: World, tmp_path: Path) -> None:
    from gristmill.model.training.training_setup import make_setup

    config = world.config(tmp_path / "x", "ar")
    planner = make_setup(config).planner
    gone = ShardSet(world.shards)[0].uid
    product = Folder(world.shards)
    product.write_json("forgotten.json", {"uids": [gone]})
    try:
        after = make_setup(config).planner
    finally:
        product.remove("forgotten.json")

    def documents(one: Planner) -> set[tuple[int, int, tuple[int, ...]]]:
        plans = [plan for row in planned(one, 1000)[0] for plan in row]
        return {(d.shard, d.row, d.seed) for d in plans if not d.left_out}

    place = planner.place(0, gone)
    whole, less = documents(planner), documents(after)
    assert whole - less and all((shard, row) == place for shard, row, _ in whole - less)
    assert not less - whole
    # Its place stays, so that all others lie where they lay.
    rows = [[[d.seed for d in row] for row in planned(one)[0]] for one in (planner, after)]
    assert rows[0] == rows[1]


def test_a_pilot_says_what_the_whole_would_come_to(folder: Path, tmp_path: Path) -> None:
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    small = dag(folder)
    with make_progress(None, True, log=None) as progress:
        found = run_pilot(small, str(tmp_path / "new"), 10, options, progress)
        assert (found.sample, found.total) == (10, ROWS)
        costs = {cost.node: cost for cost in found.nodes}
        assert costs["download"].rows == ROWS and costs["download"].rows_in == 10
        # Number 3 is among the first ten.
        assert costs["keep"].kept == 0.9 and found.kept == 9
        assert costs["shards"].bytes > 3 * 9 * 500
        assert "of one worker" in _text(render_pilot(found, small))
        with pytest.raises(ConfigurationError, match="at least 1"):
            run_pilot(small, str(tmp_path / "new"), 0, options, progress)
    # The run itself has not begun.
    assert not (tmp_path / "new" / "dag.yaml").exists()


def test_a_sample_comes_from_all_over_the_source(tmp_path: Path) -> None:
    for i in range(30):
        lines = "".join(f"https://a.test/{i}/{n}.jpg\tcaption {n}\n" for n in range(100))
        (tmp_path / f"{i:02d}.tsv").write_text(lines)
    source = Source(path=f"{tmp_path}/*.tsv", columns={"url": "0", "caption": "1"}, sample=200)
    rows = [row for chunk in source.chunks() for t in source.read(chunk) for row in t.to_pylist()]
    assert len(rows) == 200
    files = {row["url"].split("/")[3] for row in rows}
    assert len(files) == 20 and {"0", "29"} <= files
    assert source.estimate_rows() == 3000


def _text(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=150, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
