"""Whatever is broken in a run is named; a sound run has nothing to say."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_damage import DAMAGES, files_of_each_kind, flip
from run_world import copy_home

from gristmill.dags.engine.run_folder import PartStore
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.plan import run_status
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import GristmillError, RunError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.storage import Folder


def node(out: Path, name: str) -> Path:
    (found,) = (out / "nodes").glob(f"{name}-*")
    return found


def test_a_sound_run(home: Path) -> None:
    assert verify_run(str(home / "run")) == []


def test_a_flipped_byte_in_a_committed_file(out: Path) -> None:
    (rows,) = node(out, "light").glob("000001-*.rows.*")
    (blobs,) = node(out, "download").glob("000002-*.blobs.*")
    flip(rows)
    flip(blobs)
    assert verify_run(str(out)) == [
        "node 'download': blobs of part 2 has another digest than when it was written "
        f"({blobs.name})",
        f"node 'light': rows of part 1 has another digest than when it was written ({rows.name})",
    ]


def test_a_part_without_its_record_or_its_file(out: Path) -> None:
    PartStore(Folder(str(node(out, "keep")))).drop([1])
    (rows,) = node(out, "light").glob("000000-*.rows.*")
    rows.unlink()
    light, keep = verify_run(str(out))
    assert light == f"node 'light': rows of part 0 is missing ({rows.name})"
    assert keep == "node 'keep': part 1 is not committed"


def test_a_ledger_that_does_not_add_up(out: Path) -> None:
    path = out / "ledger" / "000001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    problems = verify_run(str(out))
    assert "ledger of part 1 is not what the nodes decided" in problems
    assert "12 rows came in, the ledger has 11" in problems
    path.unlink()
    assert any(said.startswith("ledger of part 1: ") for said in verify_run(str(out)))


def test_a_verdict_that_somebody_changed(out: Path) -> None:
    path = out / "ledger" / "000000.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("verdict")
    changed = table.set_column(at, table.schema.field(at), [["kept"] * len(table)])
    pq.write_table(changed, path)
    first, *rest = verify_run(str(out))
    assert first.startswith("ledger/000000.parquet has ")
    assert rest == [
        "ledger of part 0 is not what the nodes decided",
        "the ledger keeps 11 rows, the nodes 9",
    ]


def test_a_broken_shard(out: Path) -> None:
    flip(out / "shards" / "train" / "00000001.tar")
    (problem,) = verify_run(str(out))
    assert "train/00000001.tar has another digest than the manifest says" in problem
    (out / "shards" / "manifest.json").unlink()
    (problem,) = verify_run(str(out))
    assert "manifest" in problem


def test_what_has_not_come_to_its_end_is_not_called_sound(out: Path) -> None:
    (out / "summary.json").unlink()
    with pytest.raises(RunError, match="has not come to its end"):
        verify_run(str(out))


def test_one_file_of_every_kind_flipped_cut_or_gone(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    out = copy_home(wide.parent / "kept", tmp_path / "home")
    assert verify_run(str(out)) == []
    kinds = files_of_each_kind(out)
    assert len(kinds) > 60
    for number, (kind, name) in enumerate(kinds.items()):
        held = (out / name).read_bytes()
        damage = DAMAGES[number % len(DAMAGES)]
        damage(out / name)
        try:
            found = verify_run(str(out))
        except GristmillError as error:
            found = [str(error)]
        assert found, f"{kind}: {damage.__name__}"
        # A person who asks how far it is gets an answer too.
        with contextlib.suppress(GristmillError):
            run_status(str(out))
        (out / name).write_bytes(held)
    assert verify_run(str(out)) == []


def test_what_hides_forgotten_samples_is_looked_at(out: Path) -> None:
    forget(str(out), [("uid", ShardSet(str(out / "shards"))[0].uid)])
    assert verify_run(str(out)) == []
    for damage in DAMAGES:
        path = out / "shards" / "forgotten.json"
        held = path.read_bytes()
        damage(path)
        assert verify_run(str(out)) != []
        path.write_bytes(held)
