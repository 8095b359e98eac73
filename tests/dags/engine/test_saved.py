"""What a phase saved is what the next one loads, or it is said."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from run_damage import flip
from toy_run import advance, lay
from xxhash import xxh3_128_hexdigest

from gristmill.dags.engine import saved
from gristmill.dags.engine.checked import what_is_wrong
from gristmill.dags.engine.saved import fact_name
from gristmill.dags.engine.workspace import NodeWorkspace, node_workspace
from gristmill.errors import StorageError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.sealed import write_sealed


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeWorkspace]:
    monkeypatch.setenv(PATIENCE, "0")
    layout = lay(tmp_path)
    parts = advance(layout, "rows")
    with node_workspace(layout, "keep", parts) as found:
        yield found


def path_of(workspace: NodeWorkspace, name: str) -> Path:
    return Path(workspace.folder.join(f"saved/{name}"))


def test_what_was_saved_is_loaded_one_file_each(workspace: NodeWorkspace) -> None:
    workspace.save("a", np.arange(5))
    workspace.save("empty", np.zeros((0, 3), np.float16))
    workspace.save("turned", np.arange(6).reshape(2, 3).T)
    workspace.save_table("t", pa.table({"x": [1, 2]}))
    workspace.save_arrays("b/000001", {"x": np.arange(3), "y": np.zeros((0, 2), np.uint64)})
    assert workspace.load("a").tolist() == [0, 1, 2, 3, 4]
    assert workspace.load("empty").shape == (0, 3)
    assert workspace.load("turned").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert workspace.load_table("t")["x"].to_pylist() == [1, 2]
    found = workspace.load_arrays("b/000001")
    assert found["x"].tolist() == [0, 1, 2] and found["y"].shape == (0, 2)
    names = [name for name in workspace.folder.walk() if name.startswith("saved/")]
    assert sorted(names) == sorted(file["name"] for file in workspace.wrote["saved"])
    assert len(names) == 5
    assert all(what_is_wrong(workspace.folder, file) == "" for file in workspace.wrote["saved"])


def test_a_part_is_read_alone(workspace: NodeWorkspace) -> None:
    parts = [{"x": np.arange(n), "y": np.full((n, 2), n, np.uint64)} for n in (3, 0, 2)]
    workspace.save_parts("decided", parts)
    for number, part in enumerate(parts):
        found = workspace.load_part("decided", number)
        assert all(np.array_equal(found[name], part[name]) for name in ("x", "y"))
    for found, part in zip(workspace.load_parts("decided"), parts, strict=True):
        assert all(np.array_equal(found[name], part[name]) for name in ("x", "y"))
    # As another part of the same process writes them anew, later, here or elsewhere.
    workspace.save_parts("decided", [*parts, {"x": np.arange(7)}])
    assert [len(part["x"]) for part in workspace.load_parts("decided")] == [3, 0, 2, 7]
    # What comes in its place is not read by the index of before.
    workspace.save_parts("decided", [{"x": np.arange(9)}, {"x": np.arange(4)}])
    with contextlib.suppress(StorageError):
        # Without patience, the first look may be one by the old index.
        workspace.load_part("decided", 1)
    assert workspace.load_part("decided", 1)["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("a.npy", lambda w: w.load("a")),
        ("t.parquet", lambda w: w.load_table("t")),
        ("b.safetensors", lambda w: w.load_arrays("b")),
        ("decided.parts", lambda w: w.load_part("decided", 0)),
        ("decided.parts", lambda w: [*w.load_parts("decided")]),
        ("decided.parts.index.npy", lambda w: w.load_part("decided", 0)),
    ],
)
def test_what_was_changed_or_cut_is_not_loaded(
    workspace: NodeWorkspace, name: str, load: Callable[[NodeWorkspace], object]
) -> None:
    workspace.save("a", np.arange(5))
    workspace.save_table("t", pa.table({"x": [1, 2]}))
    workspace.save_arrays("b", {"x": np.arange(5)})
    workspace.save_parts("decided", [{"x": np.arange(5)}])
    load(workspace)
    path = path_of(workspace, name)
    # As another task would look.
    saved._indexes.clear()
    workspace._table = ("", None)
    whole = path.read_bytes()
    flip(path)
    with pytest.raises(StorageError, match=r"digest|other bytes"):
        load(workspace)
    for size in (0, 5, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(StorageError):
            load(workspace)
    path.unlink()
    with pytest.raises(StorageError, match="is missing"):
        load(workspace)


def test_files_of_former_releases_are_read_with_their_facts(workspace: NodeWorkspace) -> None:
    path = path_of(workspace, "old.npy")
    path.parent.mkdir(parents=True)
    np.save(path, np.arange(5))
    # Of a time before there were facts.
    assert len(workspace.load("old")) == 5
    data = path.read_bytes()
    fact = {"name": "saved/old.npy", "size": len(data), "xxh3": xxh3_128_hexdigest(data)}
    write_sealed(workspace.folder, fact_name("saved/old.npy"), fact)
    assert len(workspace.load("old")) == 5
    flip(path)
    with pytest.raises(StorageError, match="another digest"):
        workspace.load("old")
