"""Whatever is broken in a run is named; a sound run has nothing to say."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gristmill.dags.runs.verify import verify_run
from gristmill.errors import RunError


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
        "node 'download': blobs of part 2 has another digest",
        "node 'light': rows of part 1 has another digest",
    ]


def test_a_part_without_its_record_or_its_file(out: Path) -> None:
    (node(out, "keep") / "000001.json").unlink()
    (rows,) = node(out, "light").glob("000000-*.rows.*")
    rows.unlink()
    light, keep = verify_run(str(out))
    assert light.startswith("node 'light': rows of part 0: ") and rows.name in light
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
    assert verify_run(str(out)) == [
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
