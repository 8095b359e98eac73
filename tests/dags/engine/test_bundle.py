"""Many commit records in one file: read by one request, damaged line by line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from gristmill.dags.engine.bundle import BUNDLE, parse_bundle, read_bundle, write_bundle
from gristmill.dags.engine.records import Record
from gristmill.dags.engine.run_folder import ROWS, PartStore
from gristmill.pipelines.storage import Folder


def commit(store: PartStore, part: int, value: int = 0) -> Record:
    with store.attempt(part) as attempt:
        attempt.write_table(ROWS, pa.table({"uid": [f"{part}-{value}"]}))
        return attempt.commit(inputs={"above": "ab"}, rows_in=1, rows_out=1, dropped={"é": 2})


@pytest.fixture
def store(tmp_path: Path) -> PartStore:
    """Four parts, gathered."""
    store = PartStore(Folder(str(tmp_path)))
    store.records()
    for part in range(4):
        commit(store, part)
    store.look_again(range(4))
    store.gather()
    return store


def again(store: PartStore) -> PartStore:
    """As another process sees it."""
    return PartStore(Folder(store.folder.url))


def test_what_is_gathered_is_what_was_committed(store: PartStore) -> None:
    names = store.folder.names()
    assert BUNDLE in names and not PartStore.parts_of(names)
    assert again(store).records() == store.records() == again(store).sound_parts()
    assert again(store).need(2) == store.need(2) == again(store).record(2)
    assert again(store).record(4) is None


def test_a_record_beside_the_bundle_is_the_later_one(store: PartStore) -> None:
    bundle = store.folder.read_bytes(BUNDLE)
    later = commit(again(store), 2, value=1)
    assert again(store).records()[2] == later == again(store).need(2)
    store.look_again([2])
    store.gather(least=1)
    assert PartStore.parts_of(store.folder.names()) == [] and again(store).need(2) == later
    # Killed between the bundle and the removal: the same is said twice.
    store.folder.write_bytes(BUNDLE, bundle)
    later = commit(again(store), 2, value=2)
    assert again(store).records()[2] == later


def test_a_single_record_stays_by_itself(tmp_path: Path) -> None:
    store = PartStore(Folder(str(tmp_path)))
    store.records()
    commit(store, 0)
    store.look_again([0])
    store.gather()
    assert PartStore.parts_of(store.folder.names()) == [0]


def test_a_changed_byte_costs_one_part_and_a_cut_those_at_the_end(store: PartStore) -> None:
    data = store.folder.read_bytes(BUNDLE)
    places = range(0, len(data), 7)
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1
        found, broken = parse_bundle(bytes(changed))
        # A byte between two lines costs both.
        assert broken and len(found) >= 2
        assert all(store.need(part) == record for part, record in found.items())
    store.folder.write_bytes(BUNDLE, data[: len(data) * 5 // 8])
    found, broken = read_bundle(store.folder)
    assert (list(found), broken) == ([0, 1], 1)


def test_what_is_lost_is_done_again_and_the_bundle_is_whole_then(store: PartStore) -> None:
    data = bytearray(store.folder.read_bytes(BUNDLE))
    data[len(data) - 9] ^= 1
    store.folder.write_bytes(BUNDLE, bytes(data))
    other = again(store)
    sound, unsound = other.take_back_unsound()
    assert list(sound) == [0, 1, 2] and not unsound
    commit(other, 3)
    other.look_again([3])
    other.gather()
    assert parse_bundle(other.folder.read_bytes(BUNDLE)) == (other.records(), 0)


def test_a_part_that_is_taken_back_is_committed_no_longer(store: PartStore) -> None:
    commit(store, 1, value=1)
    store.drop([1, 3])
    assert list(again(store).records()) == [0, 2] == store.parts()


def test_a_part_that_is_not_said_to_be_done_keeps_its_record(store: PartStore) -> None:
    commit(store, 4)
    later = commit(again(store), 2, value=1)
    store.look_again([2])
    store.gather(least=1)
    # Its chain goes on: whoever is in it reads the record where it was written.
    assert PartStore.parts_of(store.folder.names()) == [4]
    assert again(store).need(2) == later and list(again(store).records()) == [0, 1, 2, 3, 4]


def test_no_bundle_is_no_record(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert read_bundle(folder) == ({}, 0)
    write_bundle(folder, {7: Record(7, {})})
    assert read_bundle(folder) == ({7: Record(7, {})}, 0)
