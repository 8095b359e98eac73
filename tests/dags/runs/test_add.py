"""A list that is added to a finished run: old shards as they were, new rows in new ones, what is
kept already wins."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pytest
from run_world import (
    KEPT,
    ROWS,
    RULES,
    add_here,
    build_here,
    captions,
    contents,
    copy_cwd,
    copy_home,
    draw,
    make_home,
    options,
    run_here,
    small_dag,
    wide_dag,
)

from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.clean import clean_run
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.plan import open_run
from gristmill.dags.runs.repair import repair
from gristmill.dags.runs.trace import trace_sample
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import ConfigurationError, RunError, SourceError
from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates
from gristmill.pipelines.dedup.decontaminate import Decontaminate
from gristmill.pipelines.dedup.local_feature_duplicates import RobustCopies
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.local_features import LocalFeatures
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.reader import ShardSet, read_manifest
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder

NEW = {f"number {i}" for i in (*range(20, 25), 31)}


def more(home: Path) -> None:
    """Eight pictures beside the twelve: five new ones, two that are larger copies of what was kept,
    and one that is a copy of number 1, which was too dark."""
    draw(home / "more", range(20, 25))
    draw(home / "more", (25, 26), as_of=20, side=40)
    draw(home / "more", (31,), as_of=30)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run with a list added, and of what it was before, as `first`. Not to be
    changed."""
    home = tmp_path_factory.mktemp("grown") / "home"
    make_home(home, wide_dag())
    shutil.copytree(home / "run", home / "first")
    more(home)
    assert summary_of(home, "more")["rows_in"] == ROWS + 8
    return home


@pytest.fixture
def out(grown: Path, tmp_path: Path) -> Path:
    """A run with a list added that a test may change; its home lies above it."""
    return copy_home(grown, tmp_path / "home")


def summary_of(home: Path, path: str | None, **changes: Any) -> RunSummary:
    """What an addition came to that is not nothing."""
    added = add_here(home, path, **changes)
    assert added.summary is not None, added.note
    return added.summary


def lines(out: Path) -> dict[str, dict[str, object]]:
    """Name of the picture -> its line of the ledger, without the path."""
    found = {}
    for row in rows_of_ledger(out):
        found["/".join(str(row.pop("path")).split("/")[-2:])] = row
    return found


def written(out: Path) -> dict[str, bytes]:
    """Every file of a run, but for the lock."""
    return {name: data for name, data in contents(out).items() if name != "run.lock"}


def product(out: Path) -> dict[str, bytes]:
    """Shards and what lies beside each, of both products."""
    every = contents(out)
    return {name: every[name] for name in every if name.startswith(("shards/", "table/"))}


def shards_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those with a number."""
    return {name: data for name, data in files.items() if name.rpartition("/")[2][0].isdigit()}


def test_old_shards_keep_their_bytes_and_new_rows_lie_in_new_ones(grown: Path) -> None:
    before, now = shards_of(product(grown / "first")), product(grown / "run")
    assert len(before) > 8 and before.items() <= now.items()
    assert captions(grown / "run") == KEPT | NEW
    for name in ("shards", "table"):
        folder = Folder(str(grown / "run" / name))
        manifest = read_manifest(folder)
        assert [one["name"] for one in manifest["lists"]] == ["pictures", "more"]
        for split, facts in manifest["splits"].items():
            old = manifest["lists"][0]["shards"][split]
            shards = ShardSet(folder.url, split) if facts["shards"] else None
            for number, shard in enumerate(facts["shards"]):
                assert shard["name"].partition("/")[2].startswith(f"{number:08d}")
                assert shards is not None
                uids = set(shards.metadata(number)["caption"].to_pylist())
                assert uids <= (KEPT if number < old else NEW)
    assert verify_run(str(grown / "run")) == []


def test_what_is_kept_already_wins_and_is_the_reason(grown: Path) -> None:
    before, now = lines(grown / "first"), lines(grown / "run")
    assert before.items() <= now.items()
    for copy, original in (("25", "05"), ("26", "06")):
        line = now[f"more/{copy}.png"]
        assert (line["verdict"], line["reason"]) == ("dropped", "copy")
        wins = trace_sample(str(grown / "run"), f"pictures/{original}.png")[0]
        assert line["value"] == f"duplicate_of={wins.nodes['source']['image_id']}"
    # It is no copy of what is not there.
    assert now["more/31.png"]["verdict"] == "kept" and now["pictures/01.png"]["reason"] == "dark"
    found = trace_sample(str(grown / "run"), "more/20.png")[0]
    assert (
        found.shard is not None
        and found.outcome["caption" if "caption" in found.outcome else "uid"]
    )


def test_a_list_that_is_there_is_not_added_again(grown: Path) -> None:
    before = written(grown / "run")
    for path in ("more", "pictures"):
        added = add_here(grown, path)
        assert added.summary is None and "nothing to add" in added.note
    assert written(grown / "run") == before


def test_the_command_of_the_first_list_has_nothing_to_do(grown: Path) -> None:
    before = written(grown / "run")
    clean_run(str(grown / "run"))
    summary = run_here(grown, wide_dag())
    assert all(node["reused"] == node["parts"] for node in summary["nodes"].values())
    assert summary["rows_in"] == ROWS + 8
    now = written(grown / "run")
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    assert changed <= {"summary.json", "run.json"}
    assert verify_run(str(grown / "run")) == []


def test_another_list_and_another(out: Path) -> None:
    before = shards_of(product(out))
    # A copy of one of the first list, one of the second, one of number 0, which was not kept.
    draw(out.parent / "third", (55,), as_of=50)
    draw(out.parent / "third", (72,), as_of=50)
    draw(out.parent / "third", (80,), as_of=80)
    draw(out.parent / "third", range(90, 93))
    assert summary_of(out.parent, "third")["rows_in"] == ROWS + 8 + 6
    draw(out.parent / "fourth", (99,), as_of=9)
    assert summary_of(out.parent, "fourth")["kept"] == len(KEPT | NEW) + 4
    assert before.items() <= product(out).items()
    now = lines(out)
    assert [now[f"third/{i}.png"]["verdict"] for i in (55, 72, 80)] == [
        "dropped",
        "dropped",
        "kept",
    ]
    assert now["fourth/99.png"]["reason"] == "copy"
    assert verify_run(str(out)) == []
    card = (out / "shards/DATASET_CARD.md").read_text()
    assert "| third | train |" in card and "| fourth | | none | 0 |" in card


def test_a_list_that_overlaps_keeps_what_is_there_first(out: Path) -> None:
    before = lines(out).values()
    # The folder of the first list has grown since.
    draw(out.parent / "pictures", range(40, 43))
    summary = summary_of(out.parent, "pictures")
    assert summary["dropped"]["source"] == {"repeated row": ROWS}
    now = lines(out)
    assert all(line in now.values() for line in before)
    assert now["None"]["reason"] == "repeated row" and "first in row" in str(now["None"]["value"])
    assert captions(out) == KEPT | NEW | {f"number {i}" for i in (40, 41, 42)}
    assert verify_run(str(out)) == []


def test_another_picture_of_the_same_name_is_another_row(out: Path) -> None:
    # Names and captions of the first list, and other pictures.
    for i in (3, 4, 8):
        draw(out.parent / "drawn", (i,), as_of=-60)
    assert summary_of(out.parent, "drawn")["kept"] == len(KEPT | NEW) + 3
    # Again, with one more: those that were there are known by where they lie.
    draw(out.parent / "drawn", (9,), as_of=-60)
    summary = summary_of(out.parent, "drawn")
    assert summary["kept"] == len(KEPT | NEW) + 4
    assert summary["dropped"]["source"] == {"repeated row": 3}
    uids = [sample.uid for sample in ShardSet(str(out / "shards"))]
    assert len(set(uids)) == len(uids) == summary["kept"]
    assert verify_run(str(out)) == []


def test_without_a_node_that_finds_copies(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    more(home)
    before = shards_of(product(home / "run"))
    assert summary_of(home, "more", limit=7)["kept"] == len(KEPT) + 7
    assert before.items() <= product(home / "run").items()
    assert verify_run(str(home / "run")) == []


def test_a_list_of_which_nothing_is_kept(out: Path) -> None:
    before = product(out)
    draw(out.parent / "dark", (0, 1), side=24)
    assert summary_of(out.parent, "dark")["kept"] == len(KEPT | NEW)
    now = product(out)
    assert shards_of(now) == shards_of(before)
    assert verify_run(str(out)) == []
    # Nor does the next list mind.
    draw(out.parent / "late", (60,))
    assert summary_of(out.parent, "late")["kept"] == len(KEPT | NEW) + 1
    assert verify_run(str(out)) == []


def test_another_choice_is_of_all_lists(out: Path) -> None:
    before = shards_of(product(out))
    copy = {"copy": "duplicate_of IS NOT NULL"}
    rules = {"dark": "brightness < quantile(brightness, 0.5)", **copy}
    first = choose(str(out.parent / "first"), {"rules": rules})
    choice = choose(str(out), {"rules": rules})
    assert (choice.rows, choice.kept) == (ROWS + 8, sum(map(len, choice.uids())))
    summary = build_here(choice)
    assert summary["kept"] == choice.kept and len(captions(out)) == choice.kept
    assert verify_run(str(out)) == []
    resolved = [{name: sql for name, _, sql in one.reasons} for one in (first, choice)]
    assert resolved[0]["dark"] == resolved[1]["dark"] and "::DOUBLE" in resolved[0]["dark"]
    # And back: the shards of either list as they were.
    build_here(choose(str(out), {"rules": RULES | copy}))
    assert shards_of(product(out)) == before


def test_what_is_forgotten_of_either_list(out: Path) -> None:
    by_caption = {sample.caption: sample.uid for sample in ShardSet(str(out / "shards"))}
    gone = ("number 4", "number 22")
    found = forget(str(out), [("uid", by_caption[one]) for one in gone])
    assert found.skipped >= 2 and captions(out) == (KEPT | NEW) - set(gone)
    before = shards_of(product(out))
    # One more list leaves what is there as it is, and readers go on skipping.
    draw(out.parent / "late", (60,))
    summary_of(out.parent, "late")
    left = (KEPT | NEW | {"number 60"}) - set(gone)
    assert captions(out) == left and before.items() <= product(out).items()
    # The next build leaves them out.
    assert run_here(out.parent, wide_dag())["kept"] == len(left)
    assert captions(out) == left and verify_run(str(out)) == []


def test_what_cannot_be_added_is_said_before_anything_is_done(out: Path) -> None:
    before = written(out)
    with pytest.raises(ConfigurationError, match="give the list with --source"):
        add_here(out.parent, None)
    with pytest.raises(SourceError, match="nowhere"):
        add_here(out.parent, "nowhere")
    (out / "dag.yaml").write_bytes((out / "dag.yaml").read_bytes() + b"# changed\n")
    more(out.parent / "again")
    with pytest.raises(RunError, match="run the same command again"):
        add_here(out.parent, "again/more")
    (out / "dag.yaml").write_bytes(before["dag.yaml"])
    assert written(out) == before


class Killed(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("share", [0.05, 0.45, 0.85, 0.97])
def test_a_kill_at_any_time_leaves_no_trace(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    out = copy_home(grown, tmp_path / "home")
    home, files = out.parent, 0
    last = int(share * len(written(out).keys() - written(home / "first").keys()))
    shutil.rmtree(out)
    shutil.copytree(home / "first", out)
    copy_cwd(out, home)
    really = Folder.output

    def output(folder: Folder, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        nonlocal files
        files += 1
        if files > last:
            raise Killed
        return really(folder, name)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Folder, "output", output)
        add_here(home, "more")
    # What was there before is there, and readers have it.
    assert captions(out) in (KEPT, KEPT | NEW)
    summary_of(home, "more" if files % 2 else None)
    assert product(out) == product(grown / "run")
    assert verify_run(str(out)) == []


def facts_dag() -> Dag:
    """The small run with everything that looks at all rows, on captions, vectors and pictures."""
    dag = small_dag()
    rules = {"said before": "caption_group_rank > 0", "crowded": "semantic_cluster_rank >= 12"}
    above = ("light", "captions", "semantic")
    return Dag(
        "facts",
        dag.nodes
        | {
            "captions": Node(CaptionDuplicates(prefer=()), ("download",)),
            "semantic": Node(
                SemanticClusters(embedding="vector", clusters=1, prefer=()), ("light",)
            ),
            "keep": Node(Keep(rules=RULES | rules), above),
        },
        part_rows=4,
    )


def columns_of(home: Path, node: str) -> dict[str, dict[str, object]]:
    """uid -> what a node says of the row."""
    layout = open_run(str(home / "run"))
    store = layout.store(node)
    tables = [store.table(record) for record in store.records().values()]
    return {row["uid"]: row for row in pa.concat_tables(tables).to_pylist()}


def test_captions_and_clusters_are_judged_over_both_lists(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, facts_dag())
    before = {node: columns_of(home, node) for node in ("captions", "semantic", "keep")}
    # Other pictures: with a caption that is there, one that was dropped, and new ones.
    draw(home / "more", (5, 1), as_of=-80)
    draw(home / "more", range(60, 66))
    assert summary_of(home, "more")["rows_in"] == ROWS + 8
    now = {node: columns_of(home, node) for node in before}
    assert all(before[node].items() <= now[node].items() for node in before)
    of_path = {name: str(line["uid"]) for name, line in lines(home / "run").items()}
    said, old = (now["captions"][of_path[f"{list_}/05.png"]] for list_ in ("more", "pictures"))
    assert (said["caption_group"], said["caption_copies"]) == (old["caption_group"], 2)
    assert (said["caption_group_rank"], said["caption_copy_rank"]) == (1, 1)
    # What was not kept is nobody's original.
    dark = now["captions"][of_path["more/01.png"]]
    assert (dark["caption_group_rank"], dark["caption_copies"]) == (0, 2)
    assert now["keep"][of_path["more/05.png"]]["reason"] == "said before"
    # Those that were kept come first in their cluster: nine of them, then three of the new.
    ranks = [int(now["semantic"][of_path[f"more/{i}.png"]]["semantic_cluster_rank"])
             for i in (*range(60, 66), "05", "01")]  # fmt: skip
    assert sorted(ranks) == list(range(len(KEPT), len(KEPT) + 8))
    assert lines(home / "run")["more/05.png"]["verdict"] == "dropped"
    assert verify_run(str(home / "run")) == []


@pytest.mark.parametrize("captions", ["all", "first"])
def test_another_caption_of_a_picture_that_is_there(tmp_path: Path, captions: str) -> None:
    home = tmp_path / "home"
    make_home(home)
    write_list(home / "first.csv", {"02.png": ["number 2", "number 3"], "01.png": ["number 1"]})
    dag = small_dag()
    dag = dag.replace("source", Source(path="first.csv", images="pictures"))
    dag = dag.replace("keep", Keep(rules=RULES, captions=captions))
    run_here(home, dag, "two")
    before = shards_of(product(home / "two"))
    texts = {"02.png": ["number 4"], "01.png": ["number 5"], "03.png": ["number 6", "number 8"]}
    write_list(home / "more.csv", texts)
    summary = summary_of(home, "more.csv", out="two", images="pictures")
    assert before.items() <= product(home / "two").items()
    verdicts = {str(row["uid"]): row for row in rows_of_ledger(home / "two")}
    samples = {sample.caption: sample.uid for sample in ShardSet(str(home / "two/shards"))}
    if captions == "all":
        assert samples.keys() == {f"number {i}" for i in (2, 3, 4, 5, 6, 8)}
    else:
        # One that was dropped stands in nobody's way.
        assert samples.keys() == {"number 2", "number 5", "number 6"} and summary["merged"] == 3
        merged = [row["value"] for row in verdicts.values() if row["verdict"] == "merged"]
        assert sorted(map(str, merged)) == sorted([samples["number 2"]] * 2 + [samples["number 6"]])
    assert verify_run(str(home / "two")) == []


def write_list(path: Path, captions: dict[str, list[str]]) -> None:
    """A table of pictures with their captions."""
    rows = [f"{name},{text}" for name, texts in captions.items() for text in texts]
    path.write_text("\n".join(["path,caption", *rows, ""]))


def rows_of_ledger(out: Path) -> list[dict[str, object]]:
    """All lines."""
    folder = Folder(str(out / "ledger"))
    return pa.concat_tables([folder.read_table(name) for name in folder.names()]).to_pylist()


@pytest.mark.parametrize(
    "pattern",
    [
        "additions.json",
        "shards/train/00000000.tar",
        "shards/train/00000003.tar",
        "shards/train/sizes.json",
        "nodes/shards-*/phase-index/000000.json",
        "nodes/source-*/parts.json",
        "nodes/source-*/added-01/parts.json",
        "nodes/duplicates-*/added-01/saved/decided.parts",
        "nodes/keep-*/added-01/finished.json",
    ],
)
def test_what_is_broken_is_found_and_made_again(grown: Path, tmp_path: Path, pattern: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(grown, home)
    out, before = home / "run", product(grown / "run")
    # Its pictures lie where they were when they were read.
    copy_cwd(out, grown)
    (broken,) = out.glob(pattern)
    broken.write_bytes(broken.read_bytes()[:-20])
    assert verify_run(str(out)) != []
    with make_progress(None, True, log=None) as progress:
        found = repair(str(out), options(), progress)
    assert found.found and not found.left and not found.otherwise
    assert product(out) == before and captions(out) == KEPT | NEW


def test_local_features_and_evaluation_items_are_those_of_the_first_list(tmp_path: Path) -> None:
    home = tmp_path / "home"
    draw(home / "evaluation", (70, 71), side=160)
    draw(home / "large", range(2, 8), side=160)
    (home / "light.txt").write_text("on")
    dag = small_dag()
    nodes = dag.nodes | {
        "source": Node(Source(path="large")),
        "download": Node(Download(image_size=160), ("source",)),
        "hash": Node(PerceptualHash(), ("download",)),
        "features": Node(LocalFeatures(count=64), ("download",)),
        "robust": Node(RobustCopies(prefer=()), ("features",)),
        "seen": Node(Decontaminate(sources=("evaluation",), compare_captions=False), ("hash",)),
        "keep": Node(
            Keep(rules={"copy": "copy_of IS NOT NULL", "seen": "contaminated_by IS NOT NULL"}),
            ("robust", "seen"),
        ),
    }
    dag = Dag("robust", {name: nodes[name] for name in nodes if name != "light"}, part_rows=4)
    run_here(home, dag)
    shutil.rmtree(home / "evaluation")
    draw(home / "more", (25,), as_of=20, side=200)
    draw(home / "more", (71, 80), side=160)
    assert summary_of(home, "more")["rows_in"] == 9
    now = {name: line["reason"] for name, line in lines(home / "run").items()}
    assert [now[f"more/{i}.png"] for i in (25, 71, 80)] == ["copy", "seen", None]
    assert {now[f"large/{i:02d}.png"] for i in range(2, 8)} == {None}
    assert verify_run(str(home / "run")) == []
