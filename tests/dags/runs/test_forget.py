"""Forgetting by uid, URL and digest: readers skip at once, shards when they are built anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_world import KEPT, ROWS, build_here, captions, run_here
from toy_run import toy_dag
from toy_stages import ToyRows

from gristmill.dags.runs.forget import forget, read_list
from gristmill.dags.runs.keep import choose
from gristmill.errors import ConfigurationError
from gristmill.pipelines.keep import FORGOTTEN
from gristmill.pipelines.shards.reader import ShardSet


def test_by_uid_and_digest_readers_skip_at_once(out: Path) -> None:
    samples = {sample.caption: sample for sample in ShardSet(str(out / "shards"))}
    one, two = samples["number 3"], samples["number 8"]
    found = forget(str(out), [("uid", one.uid), ("sha256", str(two.columns["sha256"]).upper())])
    assert found.uids == sorted([one.uid, two.uid])
    assert (found.skipped, found.unknown) == (2, [])
    left = KEPT - {"number 3", "number 8"}
    assert captions(out) == left and len(ShardSet(str(out / "shards"))) == len(left)
    # The next to be forgotten does not call these back.
    assert forget(str(out), [("uid", samples["number 4"].uid)]).skipped == 3
    assert captions(out) == left - {"number 4"}
    # Nor does another selection, and the shards of it no longer hold them.
    summary = build_here(choose(str(out), {"rules": {}}))
    assert summary["kept"] == ROWS - 3 and summary["dropped"]["keep"] == {FORGOTTEN: 3}
    assert not {"number 3", "number 4", "number 8"} & captions(out)


def test_by_url_every_caption_of_it(tmp_path: Path) -> None:
    toys = toy_dag(rows=ToyRows(rows=20, chunk=9, captions=2))
    kept = run_here(tmp_path, toys)["kept"]
    found = forget(str(tmp_path / "run"), [("url", "HTTP://TOY.test/5#x")])
    assert len(found.uids) == 2 and found.skipped == 0 and found.unknown == []
    summary = run_here(tmp_path, toys)
    assert summary["dropped"]["keep"][FORGOTTEN] == 2 and summary["kept"] == kept - 2


def test_what_no_row_has_is_said_and_forgotten_all_the_same(out: Path) -> None:
    wanted = [("uid", "0" * 32), ("url", "http://nowhere.test/a.jpg")]
    found = forget(str(out), wanted, "asked for")
    assert (found.uids, found.skipped) == ([], 0)
    assert found.unknown == [f"uid {'0' * 32}", "url http://nowhere.test/a.jpg"]
    assert captions(out) == KEPT
    assert choose(str(out), {}).kept == len(KEPT)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], "nothing to forget"),
        ([("uid", "abc")], "'abc' is not 32 hex digits"),
        ([("sha256", "g" * 64)], "is not 64 hex digits"),
        ([("name", "x")], "choose one of uid, url, sha256"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(
    home: Path, wanted: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        forget(str(home / "run"), wanted)
    assert captions(home / "run") == KEPT


def test_a_list_tells_kinds_apart_by_form(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# why\n\n{'a' * 32}\n {'b' * 64} \nhttps://a.test/1.jpg\n")
    assert read_list(str(path)) == [
        ("uid", "a" * 32),
        ("sha256", "b" * 64),
        ("url", "https://a.test/1.jpg"),
    ]
