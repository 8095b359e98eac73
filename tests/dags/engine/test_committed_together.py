"""Parts that are committed together: read, damaged and taken back each alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from gristmill.dags.engine.bundle import BUNDLE
from gristmill.dags.engine.checked import cut_checked, read_checked, what_is_wrong
from gristmill.dags.engine.committed_together import commit_together
from gristmill.dags.engine.records import CommitFacts
from gristmill.dags.engine.run_folder import ROWS, PartStore
from gristmill.errors import StorageError
from gristmill.pipelines import patience
from gristmill.pipelines.storage import Folder


def table(part: int) -> pa.Table:
    return pa.table({"uid": [f"{part}-{row}" for row in range(part + 1)]})


def parts(*numbers: int) -> Iterator[tuple[int, pa.Table, CommitFacts]]:
    for part in numbers:
        yield part, table(part), {"rows_in": part + 1, "rows_out": part + 1}


@pytest.fixture
def store(tmp_path: Path) -> PartStore:
    """Parts 0 to 3 and 4 to 5, each of them two files."""
    store = PartStore(Folder(str(tmp_path)))
    commit_together(store, 0, parts(0, 1, 2, 3))
    commit_together(store, 4, parts(4, 5))
    return store


def test_they_are_known_to_all_and_read_each_alone(store: PartStore) -> None:
    names = store.folder.names()
    assert len(names) == 4 and {"000000.jsonl", "000004.jsonl"} <= set(names)
    for other in (store, PartStore(store.folder)):
        assert [other.table(other.need(part)) for part in range(6)] == [*map(table, range(6))]
    assert PartStore(store.folder).parts() == [*range(6)]
    assert len(PartStore(store.folder).sound_parts()) == 6
    other = PartStore(store.folder)
    assert len({other.need(part).digest for part in range(6)}) == 6


def test_they_are_gathered_whenever_someone_gathers(store: PartStore) -> None:
    store.settle()
    assert BUNDLE in store.folder.names() and len(store.folder.names()) == 3
    assert PartStore(store.folder).parts() == [*range(6)]


def test_a_part_is_done_again_alone(store: PartStore) -> None:
    before = {part: store.need(part).files[ROWS]["name"] for part in range(6)}
    again = PartStore(store.folder)
    again.drop([1, 5])
    assert again.parts() == PartStore(store.folder).parts() == [0, 2, 3, 4]
    commit_together(again, 0, parts(1))
    again.settle()
    assert again.parts() == [0, 1, 2, 3, 4]
    now = {part: again.need(part).files[ROWS]["name"] for part in again.parts()}
    assert {part for part, name in now.items() if name != before[part]} == {1}


def test_what_does_not_come_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    store = PartStore(Folder(str(tmp_path)))

    def broken() -> Iterator[tuple[int, pa.Table, CommitFacts]]:
        yield from parts(0, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commit_together(store, 0, broken())
    assert store.folder.names() == [] and store.parts() == []


def test_damage_is_found_by_part(store: PartStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.PATIENCE, "0")
    files = {part: store.need(part).files[ROWS] for part in range(4)}
    path = Path(store.folder.join(files[2]["name"]))
    data = bytearray(path.read_bytes())
    data[files[2]["start"] + 8] ^= 1
    path.write_bytes(data)
    assert [bool(what_is_wrong(store.folder, files[part])) for part in range(4)] == [
        False, False, True, False,
    ]  # fmt: skip
    whole: dict[str, bytes] = {}
    for part in (0, 1, 3):
        alone = read_checked(store.folder, files[part])
        assert bytes(cut_checked(store.folder, files[part], whole)) == alone
    for read in (read_checked, lambda f, file: cut_checked(f, file, whole)):
        with pytest.raises(StorageError, match="another digest"):
            read(store.folder, files[2])
    # A file that was cut has lost its last parts.
    path.write_bytes(data[: files[3]["start"] + 5])
    assert what_is_wrong(store.folder, files[3]) and not what_is_wrong(store.folder, files[1])
    sound, unsound = PartStore(store.folder).take_back_unsound()
    assert unsound == [3] and sorted(sound) == [0, 1, 2, 4, 5]
    path.unlink()
    assert "missing" in what_is_wrong(store.folder, files[0])
