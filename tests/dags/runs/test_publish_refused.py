"""What a hub refuses or has no time for, and what is not published at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_double import STRANGER, TOKEN, HubDouble
from hub_here import hub_here
from publish_world import URL, published
from run_damage import flip
from run_world import contents
from shard_set import build

from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.publish import publish
from gristmill.errors import ConfigurationError, GristmillError, RunError, ShardError, StorageError
from gristmill.pipelines.shards.reader import ShardSet

# -- a hub that has bad days --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["info", "create", "tree", "preupload", "lfs", "put", "commit"])
@pytest.mark.parametrize("status", [503, 429])
def test_what_heals_is_asked_again(hub: HubDouble, tars: Path, kind: str, status: int) -> None:
    hub.refuse = {kind: [status, status]}
    publish(str(tars), URL)
    assert published(hub) == contents(tars) and not hub.refuse[kind]


@pytest.mark.parametrize("kind", ["info", "create", "tree", "preupload", "lfs", "put", "commit"])
@pytest.mark.parametrize("status", [503, 429, 403, 400])
def test_what_does_not_heal_is_said_without_secrets(
    hub: HubDouble, tars: Path, kind: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.gossip, hub.refuse = True, {kind: [status] * 999}
    with pytest.raises(GristmillError) as raised:
        publish(str(tars), URL)
    captured = capfd.readouterr()
    said = f"{raised.value} {captured.out} {captured.err}"
    assert TOKEN not in said and "5igned" not in said and URL in str(raised.value)
    if status >= 429:
        assert isinstance(raised.value, StorageError) and "same command again" in said
    if status in (400, 403):
        # It is not asked again what it will refuse again.
        assert len(hub.refuse[kind]) >= 999 - 8


# -- refused before anything is sent ------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://bucket/set", "not on the Hub"),
        ("owner/set", "not on the Hub"),
        ("hf://owner/model", "is a model"),
        ("hf://spaces/owner/space", "is a space"),
        ("hf://datasets/owner", "write hf://datasets"),
        ("hf://datasets/ow ner/set", "write hf://datasets"),
        ("hf://datasets/owner/set/../other", "cannot be a folder"),
        ("hf://", "write hf://datasets"),
    ],
)
def test_a_target_that_is_none(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        publish("nowhere", url)


def test_nobody_may_publish_without_a_token(tars: Path) -> None:
    why = r"`hf auth login`, or set HF_TOKEN"
    with hub_here(token=None) as hub, pytest.raises(ConfigurationError, match=why):
        publish(str(tars), URL)
    assert not hub.asked


@pytest.mark.parametrize(
    ("token", "fields", "why"),
    [
        ("hf_nobodyKnowsThisOne", None, "does not take the token"),
        ("hf_nobodyKnowsThisOne", {"private": True}, "does not take the token"),
        (STRANGER, None, "write access to owner"),
        (STRANGER, {"private": True}, "write access to owner"),
        (STRANGER, {"private": False}, "write access to owner"),
        (STRANGER, {"private": False, "gated": True}, "write access to owner"),
    ],
)
def test_the_wrong_token(tars: Path, token: str, fields: dict[str, bool] | None, why: str) -> None:
    with hub_here(token) as hub:
        if fields is not None:
            hub.repository(**fields)
        with pytest.raises(ConfigurationError, match=why) as raised:
            publish(str(tars), URL, public=True)
    assert token not in str(raised.value) and not hub.received


def test_nothing_goes_public_by_itself(hub: HubDouble, tars: Path) -> None:
    hub.repository("owner/open")
    with pytest.raises(ConfigurationError, match="owner/open is public: add --public"):
        publish(str(tars), "hf://datasets/owner/open")
    assert not hub.received
    publish(str(tars), "hf://datasets/owner/open", public=True)
    publish(str(tars), URL, public=True)
    assert not hub.repositories["owner/set"].private


def test_a_run_that_has_not_come_to_its_end(hub: HubDouble, out: Path) -> None:
    summary = (out / "summary.json").read_bytes()
    (out / "summary.json").unlink()
    with pytest.raises(RunError, match="has not come to its end; run the same command again"):
        publish(str(out), URL)
    (out / "summary.json").write_bytes(summary)
    owner = out / "products/shards.json"
    owner.write_text(owner.read_text().replace("shards-", "shards-0"))
    with pytest.raises(RunError, match="its shards are not those of its dag"):
        publish(str(out), URL)
    (out / "shards/manifest.json").unlink()
    with pytest.raises(ShardError, match=r"no manifest\.json.*finish the run"):
        publish(str(out / "shards"), URL)
    with pytest.raises(GristmillError, match=r"no manifest\.json"):
        publish(str(out / "nothing"), URL)
    assert not hub.repositories


def test_a_set_without_samples(hub: HubDouble, tmp_path: Path) -> None:
    empty = build(tmp_path / "empty", [], order=[])
    with pytest.raises(ShardError, match="has no samples; there is nothing to publish"):
        publish(str(empty), URL)
    assert not hub.repositories


def test_files_that_the_repository_leaves_out(hub: HubDouble, tars: Path) -> None:
    repository = hub.repository(private=True)
    repository.ignored = (".tar",)
    with pytest.raises(
        ConfigurationError, match=r"4 files .* train/00000000\.tar first; .*gitignore"
    ):
        publish(str(tars), URL)
    assert "manifest.json" not in repository.files
    repository.ignored = ()
    publish(str(tars), URL)
    assert published(hub) == contents(tars)


def test_an_edited_folder(hub: HubDouble, out: Path) -> None:
    publish(str(out), URL)
    commits = len(hub.repositories["owner/set"].commits)
    shard = next((out / "shards/train").glob("*.tar"))
    flip(shard)
    with pytest.raises(ShardError, match=r"another digest.*gristmill repair"):
        publish(str(out), URL)
    flip(shard)
    (out / "shards/train/notes.txt").write_text("mine")
    with pytest.raises(ShardError, match=r"notes\.txt is not in the manifest"):
        publish(str(out), URL)
    assert len(hub.repositories["owner/set"].commits) == commits


def test_what_is_to_be_forgotten_is_not_published(hub: HubDouble, out: Path) -> None:
    forget(str(out), [("uid", ShardSet(str(out / "shards"))[0].uid)])
    for folder in (out, out / "shards"):
        with pytest.raises(ShardError, match=r"1 samples .* keep RUN --shards"):
            publish(str(folder), URL)
    (out / "shards/forgotten.json").unlink()
    with pytest.raises(ShardError, match=r"forgotten\.json does not say"):
        publish(str(out), URL)
    assert not hub.received


def test_one_set_of_several_is_named(hub: HubDouble, wide: Path) -> None:
    with pytest.raises(RunError, match=r"2 sets of shards: name one of them .*run/table"):
        publish(str(wide / "run"), URL)
    publish(str(wide / "run/table"), URL)
    assert published(hub) == contents(wide / "run/table")
