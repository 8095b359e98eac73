"""Lists that were added: what is written of each is read again, and tells one from another."""

from __future__ import annotations

from pathlib import Path

from gristmill.dags.engine.additions import (
    ADDITIONS,
    Addition,
    list_title,
    manifest_digest,
    read_additions,
    write_additions,
)
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert read_additions(folder) == ()
    source = Source(path="more.csv", columns={"caption": "TEXT"}, captions_per_image=5)
    lists = (Addition(source, "a" * 64, 7), Addition(Source(path="x"), "b" * 64))
    write_additions(folder, lists)
    assert read_additions(folder) == lists
    assert len({one.digest for one in (*lists, Addition(source, "a" * 64))}) == 3
    data = (tmp_path / ADDITIONS).read_bytes()
    (tmp_path / ADDITIONS).write_bytes(data.replace(b"more.csv", b"less.csv"))
    assert read_additions(folder) == ()
    # What was run last says it, too.
    write_sealed(folder, "run.json", {"additions": [lists[0].stored()]})
    assert read_additions(folder) == lists[:1]


def test_a_list_is_called_as_its_rows_are() -> None:
    assert list_title(Source(path="tars:s3://bucket/laion/*.tar")) == "source"
    assert list_title(Source(path="more.csv", name="mine")) == "mine"
    entries = [{"name": "a", "size": 1, "modified": "1"}]
    assert manifest_digest(entries) != manifest_digest([{**entries[0], "size": 2}])  # type: ignore
