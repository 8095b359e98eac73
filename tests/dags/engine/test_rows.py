"""What enters a node: columns joined by uid, rows that left are gone, bytes from where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toy_run import advance, captions, lay, put, toy_dag
from toy_stages import ToyDraw, ToyLength

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.saved import load_saved_array
from gristmill.dags.engine.tombstones import add_tombstones
from gristmill.dags.engine.workspace import NodeWorkspace, node_workspace
from gristmill.pipelines.storage import Folder


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """Three parts; `late` looks at what was kept."""
    dag = toy_dag(late=ToyLength())
    layout = lay(tmp_path_factory.mktemp("run"), dag)
    assert advance(layout) == 3
    return layout


def test_columns_of_several_nodes_meet_in_the_order_of_the_rows(layout: RunLayout) -> None:
    reader = RowReader(layout)
    for part in range(3):
        table = reader.entering("keep", part, ["length", "caption", "brightness", "uid"])
        assert table.column_names == ["length", "caption", "brightness", "uid"]
        assert [len(text) for text in table["caption"].to_pylist()] == table["length"].to_pylist()
        numbers = captions(table)
        assert list(numbers) == sorted(numbers) and 3 not in numbers
        assert table["uid"].to_pylist() == reader.entering("keep", part, ["uid"])["uid"].to_pylist()


@pytest.mark.parametrize(("many", "whole", "pieces"), [(False, 0, 3), (True, 1, 1)])
def test_a_file_that_parts_share_is_read_whole_for_the_second_of_them(
    many: bool, whole: int, pieces: int, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [layout.store("keep").table(layout.store("keep").need(part)) for part in range(3)]
    read: list[str] = []

    def told(name: str) -> None:
        method = getattr(Folder, name)

        def of_shared(folder: Folder, file: str, *place: int) -> bytes:
            if file.endswith(".parts"):
                read.append(name)
            return bytes(method(folder, file, *place))

        monkeypatch.setattr(Folder, name, of_shared)

    told("read_bytes")
    told("read_range")
    reader = RowReader(layout, many=many)
    for part in range(3):
        assert reader.table("keep", part).equals(expected[part])
        assert reader.table("keep", part, columns=["uid"]).column_names == ["uid"]
    assert (read.count("read_bytes"), read.count("read_range")) == (whole, pieces)


def test_the_order_of_a_score_s_file_does_not_matter(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw", "bright")
    uids = layout.store("draw").table(layout.store("draw").need(0))["uid"].to_pylist()
    lengths = list(range(len(uids)))
    scores = pa.table({"uid": uids[::-1], "length": pa.array(lengths[::-1], pa.int32())})
    put(layout, "length", 0, scores)
    entering = RowReader(layout).entering("keep", 0, ["uid", "length"])
    assert entering["length"].to_pylist() == [uids.index(u) for u in entering["uid"].to_pylist()]


def test_a_row_that_was_poison_to_a_score_does_not_reach_what_follows(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    advance(layout, "rows", "draw", "bright")
    uids = RowReader(layout).entering("length", 0, ["uid"])["uid"].to_pylist()
    scores = pa.table({"uid": uids[1:], "length": pa.array([1] * (len(uids) - 1), pa.int32())})
    put(layout, "length", 0, scores, dropped={"poisoned": 1}, rows_in=len(uids))
    reader = RowReader(layout)
    # Also when no column of that node is asked for.
    assert reader.entering("keep", 0, ["caption"]).num_rows == len(uids) - 1
    assert reader.entering("keep", 0, ["uid", "length"])["uid"].to_pylist() == uids[1:]


def test_what_leaves_a_map_a_keep_and_a_source(layout: RunLayout) -> None:
    reader = RowReader(layout)
    drawn = reader.leaving("draw", 0, ["caption", "status"])
    assert 3 not in captions(drawn) and set(drawn["status"].to_pylist()) == {"success"}
    assert 3 in captions(reader.leaving("rows", 0, ["caption"]))
    short = {n for part in range(3) for n in captions(reader.leaving("keep", part, ["caption"]))}
    assert short == set(range(10, 19))
    assert captions(reader.entering("late", 0, ["caption"])) == []


def test_a_sidecar_comes_as_a_list_of_its_width_taken_by_row(layout: RunLayout) -> None:
    reader = RowReader(layout)
    table = reader.entering("late", 1, ["uid", "toy_embedding"])
    assert table.schema.field("toy_embedding").type == pa.list_(pa.float16(), 3)
    record = reader.record("bright", 1)
    store = layout.store("bright")
    whole = load_saved_array(store.folder, record.files["toy_embedding"]["name"])
    rows = store.table(record)["uid"].to_pylist()
    expected = whole[[rows.index(uid) for uid in table["uid"].to_pylist()]]
    assert (np.array(table["toy_embedding"].to_pylist(), np.float16) == expected).all()


def test_pictures_of_several_parts_come_in_the_order_asked(layout: RunLayout) -> None:
    reader = RowReader(layout)
    pieces = []
    for part in (1, 0):
        table = reader.entering("keep", part, ["uid", "blob_offset", "blob_size"])
        pieces.append(table.append_column("part", pa.array([part] * len(table), pa.int32())))
    table = pa.concat_tables(pieces)
    order = np.random.default_rng(0).permutation(len(table))
    found = reader.images("keep", table.take(order))
    assert len(set(found)) == len(table)
    for row, data in zip(table.take(order).to_pylist(), found, strict=True):
        record = reader.record("draw", row["part"])
        blobs = layout.store("draw").folder.read_bytes(record.files["blobs"]["name"])
        assert data == blobs[row["blob_offset"] : row["blob_offset"] + row["blob_size"]]
    assert reader.image_node("late") == "draw" and reader.images("keep", table.slice(0, 0)) == []


def test_far_pictures_are_read_apart_and_a_shared_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = lay(tmp_path)
    reads: list[tuple[int, int]] = []
    data = bytes(i % 251 for i in range(700_000))
    with layout.store("draw").attempt(0) as attempt:
        with attempt.output("blobs", "bin") as file:
            file.write(data)
        attempt.commit()

    read_ranges = Folder.read_ranges

    def counted(folder: Folder, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        reads.extend((start, size) for _, start, size in ranges)
        return read_ranges(folder, ranges)

    monkeypatch.setattr(Folder, "read_ranges", counted)
    places = [(600_000, 10), (0, 5), (100, 7), (0, 5)]
    table = pa.table(
        {
            "part": pa.array([0] * 4, pa.int32()),
            "blob_offset": pa.array([at for at, _ in places], pa.int64()),
            "blob_size": pa.array([size for _, size in places], pa.int64()),
        }
    )
    found = RowReader(layout).images("keep", table)
    assert found == [data[at : at + size] for at, size in places]
    assert reads == [(0, 107), (600_000, 10)]


def test_a_workspace_hands_out_rows_in_batches_with_their_part(layout: RunLayout) -> None:
    with node_workspace(layout, "keep", 3) as workspace:
        assert workspace.parts == 3 and "brightness" in workspace.schema.names
        table = workspace.batches(["caption", "part", "length"]).read_all()
        assert table.column_names == ["caption", "length", "part"]
        assert table["part"].type == pa.int32() and set(table["part"].to_pylist()) == {0, 1, 2}
        rows = [workspace.rows(part, ["caption"]) for part in range(3)]
        assert table["caption"].to_pylist() == pa.concat_tables(rows)["caption"].to_pylist()


def test_what_a_workspace_saves_it_loads_and_scratch_goes(layout: RunLayout) -> None:
    with node_workspace(layout, "late", 3) as workspace:
        assert isinstance(workspace, NodeWorkspace)
        array = np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2]
        workspace.save("pairs", array)
        loaded = workspace.load("pairs")
        assert (loaded == array).all() and not loaded.flags.owndata
        assert not loaded.flags.writeable
        workspace.save_table("names", pa.table({"n": [1]}))
        assert workspace.load_table("names").to_pylist() == [{"n": 1}]
        with workspace.output("deep/file") as file:
            file.write(b"x")
        assert layout.folder.read_bytes("late/deep/file") == b"x"
        scratch = Path(workspace.scratch())
        (scratch / "spilled").write_bytes(b"x")
        add_tombstones(layout.folder, [{"kind": "uid", "value": "a", "when": "", "why": ""}])
        assert workspace.forgotten()["value"].to_pylist() == ["a"]
    assert not scratch.exists()


def test_an_array_on_a_store_is_read_whole(tmp_path: Path) -> None:
    folder = Folder("memory://rows-test")
    with folder.output("a.npy") as file:
        np.save(file, np.arange(5))
    assert load_saved_array(folder, "a.npy").tolist() == [0, 1, 2, 3, 4]


def test_the_rows_of_a_map_that_stores_no_pictures(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(draw=ToyDraw()))
    advance(layout, "rows")
    assert RowReader(layout).entering("draw", 0, ["uid"]).num_rows == 8
