"""A finished set goes to a hub whole, goes on after a cut without sending anything again, and tells
no secret; what is not finished, or not what was written, stays here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pytest
import yaml
from hub_double import SIGNATURE, TOKEN, HubDouble
from hub_here import environment
from hub_server import hub_server
from publish_world import URL, published
from run_world import contents, copy_home
from shard_set import ROWS, build
from typer.testing import CliRunner

from gristmill import cli
from gristmill.dags.runs import publish as publishing
from gristmill.dags.runs.publish import publish
from gristmill.errors import RunError, StorageError
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.verify import verify_shards


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tables"), [20], format="parquet", samples_per_shard=10)


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_COMMIT_FILES", 4)


# -- the whole way ------------------------------------------------------------------------------


def test_a_run_is_published_private_whole_and_once(hub: HubDouble, home: Path) -> None:
    done = publish(str(home / "run"), URL)
    assert done.created and hub.repositories["owner/set"].private
    assert published(hub) == contents(home / "run/shards")
    # Manifest, cards and Croissant came last, together.
    commits = hub.repositories["owner/set"].added
    assert set(commits[-1]) == {"README.md", "manifest.json", "croissant.json", "DATASET_CARD.md"}
    assert len(commits) == done.commits == 2 and done.sent == sum(map(len, commits))
    hub.asked.clear()
    again = publish(str(home / "run"), URL)
    assert (again.commits, again.sent, again.created) == (0, 0, False)
    assert dict(hub.asked) == {"GET info": 1, "GET tree": 1, "GET resolve": 1}


def test_what_is_asked_depends_on_commits_and_not_on_files(hub: HubDouble, tars: Path) -> None:
    publish(str(tars), URL)
    puts = hub.asked.pop("PUT put")
    assert puts == sum(name.endswith((".tar", ".parquet")) for name in contents(tars))
    assert dict(hub.asked) == {
        "GET info": 1, "POST create": 1, "GET tree": 2, "POST preupload": 2, "POST lfs": 1,
        "POST yaml": 1, "POST commit": 2,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_datasets_reads_what_was_published(
    hub: HubDouble, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    publish(str(source), URL)
    clone = hub.write_to(tmp_path / "clone")
    rows = {}
    for ours, theirs in (("train", "train"), ("val", "validation")):
        found = datasets.load_dataset(str(clone), split=theirs, cache_dir=str(tmp_path / "cache"))
        image = "jpg" if kind == "tars" else "image"
        assert all(np.asarray(row[image].convert("RGB")).shape == (12, 16, 3) for row in found)
        rows[ours] = len(found)
    assert rows == {split: len(ShardSet(str(source), split)) for split in rows}
    assert sum(rows.values()) == ROWS
    assert verify_shards(str(clone)) == []


def test_sets_beside_one_another_and_on_a_branch(
    hub: HubDouble, tars: Path, tmp_path: Path
) -> None:
    other = build(tmp_path / "other", [20], samples_per_shard=30)
    places = {f"{URL}@trial/a/tars": tars, f"{URL}@trial/b": other}
    for url, source in places.items():
        publish(str(source), url)
    repository = hub.repositories["owner/set"]
    assert not repository.files
    assert published(hub, "a/tars/", "trial") == contents(tars)
    assert published(hub, "b/", "trial") == contents(other)
    clone = hub.write_to(tmp_path / "clone", revision="trial")
    for config, source in (("a-tars", tars), ("b", other)):
        found = datasets.load_dataset(
            str(clone), config, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert set(found["__key__"]) == {sample.uid for sample in ShardSet(str(source))}
    text = repository.branches["trial"]["README.md"].data.decode()
    assert text.count(": begin -->") == text.count(": end -->") == 2
    assert all(publish(str(source), url).commits == 0 for url, source in places.items())


def test_a_set_that_lies_elsewhere_is_fetched_to_be_sent(
    hub: HubDouble, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in contents(tars).items():
        memory.pipe_file(f"/published/{name}", data)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(publishing, "_GROUP_BYTES", 50_000)
    publish("memory://published", URL)
    assert published(hub) == contents(tars) and not list(tmp_path.iterdir())


# -- cuts ---------------------------------------------------------------------------------------


def cut_and_go_on(hub: HubDouble, source: Path) -> tuple[set[str], set[str]]:
    """Publish until the hub hangs up, then again; digests that were committed before the cut, and
    those of which more came than they are long."""
    with pytest.raises(StorageError, match="run the same command again"):
        publish(str(source), URL)
    repository = hub.repositories["owner/set"]
    assert "manifest.json" not in repository.files
    before = {stored.sha256 for stored in repository.files.values()}
    hub.up()
    publish(str(source), URL)
    assert published(hub) == contents(source)
    sizes = {hashlib.sha256(data).hexdigest(): len(data) for data in contents(source).values()}
    return before, {digest for digest, came in hub.received.items() if came > sizes[digest]}


@pytest.mark.parametrize("part_bytes", [0, 9_000])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.7, 0.95])
@pytest.mark.usefixtures("small_commits")
def test_after_a_cut_nothing_is_sent_again_but_what_was_cut(
    hub: HubDouble, tars: Path, part_bytes: int, share: float
) -> None:
    whole = sum(len(d) for n, d in contents(tars).items() if n.endswith((".tar", ".parquet")))
    hub.part_bytes, hub.cut_after = part_bytes, int(whole * share)
    before, twice = cut_and_go_on(hub, tars)
    added = hub.repositories["owner/set"].added
    assert all(len(files) <= 4 for files in added)
    assert sum(map(len, added)) == len(contents(tars)) + 1
    # Files that were under way side by side, none of them of a commit that was done.
    assert not twice & before and len(twice) <= 4


@pytest.mark.parametrize("commits", [1, 3])
@pytest.mark.usefixtures("small_commits")
def test_a_commit_whose_answer_was_lost_is_not_made_again(
    hub: HubDouble, tars: Path, commits: int
) -> None:
    hub.repository(private=True)
    hub.cut_commits = commits
    before, twice = cut_and_go_on(hub, tars)
    assert len(before) >= 4 * commits - 1 and not twice
    added = hub.repositories["owner/set"].added
    assert sum(map(len, added)) == len(contents(tars)) + 1


def test_a_process_that_is_killed_goes_on_and_tells_no_secret(home: Path, tmp_path: Path) -> None:
    out = copy_home(home, tmp_path / "home")
    with hub_server() as hub:
        settings = os.environ | environment(hub, TOKEN) | {"TMPDIR": str(tmp_path)}
        command = [sys.executable, "-m", "gristmill", "publish", str(out), URL]

        def start() -> subprocess.Popen[str]:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            return subprocess.Popen(command, env=settings, cwd=tmp_path, text=True, **pipes)

        hub.cut_after = 5_000
        process = start()
        hub.at_cut = process.kill
        said, _ = process.communicate(timeout=120)
        assert process.returncode < 0
        hub.up()
        process = start()
        more, _ = process.communicate(timeout=120)
        assert process.returncode == 0, more
        assert f"{URL}: " in more and "files" in more
        assert published(hub) == contents(out / "shards")
    told = [said.encode(), more.encode(), *contents(tmp_path).values()]
    told += [stored.data for stored in hub.repositories["owner/set"].files.values()]
    told += [message.encode() for message in hub.repositories["owner/set"].commits]
    for secret in (TOKEN, SIGNATURE):
        assert not any(secret.encode() in text for text in told)


# -- another set where one lies -----------------------------------------------------------------


def test_files_of_before_stay_unless_told_and_are_not_read(
    hub: HubDouble, tars: Path, tmp_path: Path
) -> None:
    hub.repository(private=True).put("train/notes.txt", b"of a person")
    publish(str(tars), URL)
    fewer = build(tmp_path / "fewer", [20], samples_per_shard=40)
    stale = {"train/00000001.tar", "train/00000002.tar"}
    done = publish(str(fewer), URL)
    repository = hub.repositories["owner/set"]
    assert stale < set(done.stale) and stale < set(repository.files) and not done.deleted
    # The old manifest went before any new shard came, the new one came last.
    assert repository.deleted[-2:] == [["manifest.json"], []]
    assert "manifest.json" in repository.added[-1]
    clone = hub.write_to(tmp_path / "clone")
    for split, ours in (("train", "train"), ("validation", "val")):
        found = datasets.load_dataset(
            str(clone), split=split, cache_dir=str(tmp_path / "cache"), name="default"
        )
        assert set(found["__key__"]) == {sample.uid for sample in ShardSet(str(fewer), ours)}
    done = publish(str(fewer), URL, delete=True)
    assert done.deleted == len(done.stale) and not stale & set(repository.files)
    assert repository.files["train/notes.txt"].data == b"of a person"
    matter = yaml.safe_load(repository.files["README.md"].data.decode().split("---\n")[1])
    assert matter["configs"][0]["data_files"][0]["path"] == "train/*.tar"
    assert publish(str(fewer), URL, delete=True).commits == 0


def test_a_cut_between_two_sets_leaves_no_manifest(
    hub: HubDouble, tars: Path, tmp_path: Path
) -> None:
    publish(str(tars), URL)
    other = build(tmp_path / "other", [20], seed=7)
    hub.cut_after = hub.received.total() + 1_000
    hub.cut_commits = None
    with pytest.raises(StorageError):
        publish(str(other), URL)
    hub.up()
    hub.cut_commits = len(hub.repositories["owner/set"].commits) + 1
    with pytest.raises(StorageError):
        publish(str(other), URL)
    assert "manifest.json" not in hub.repositories["owner/set"].files
    hub.up()
    publish(str(other), URL)
    assert published(hub) == contents(other)


def test_a_set_that_changes_meanwhile_gets_no_manifest(hub: HubDouble, out: Path) -> None:
    class Meddling(publishing.UploadProgress):
        def sent(self, files: int, size: int) -> None:
            (out / "shards/manifest.json").unlink(missing_ok=True)

    with pytest.raises(RunError, match="written anew meanwhile"):
        publish(str(out), URL, progress=Meddling())
    assert "manifest.json" not in hub.repositories["owner/set"].files


# -- the command --------------------------------------------------------------------------------


def test_the_command_says_what_it_did(hub: HubDouble, out: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["publish", str(out), URL, *words])
        assert done.exit_code == 0, done.exception
        return done.output

    said = run("--plain")
    assert "made owner/set, private" in said and "0 were there, 0 deleted" in said
    files = len(contents(out / "shards")) - 1
    assert run().endswith(f"{URL}: nothing to do, all {files} files are there\n")
    hub.repositories["owner/set"].put("val/00000009.tar", b"old")
    said = run()
    assert "1 files of an earlier publish" in said and "val/00000009.tar first; --delete" in said
    assert run("--delete").endswith("1 deleted\n")
    assert "val/00000009.tar" not in hub.repositories["owner/set"].files
