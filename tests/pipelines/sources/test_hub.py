"""A repository of a hub is a source: tables with pictures, tars, folders, whole repositories; what
the hub refuses is said with its remedy; what is asked does not grow with rows."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_double import STRANGER, HubDouble
from hub_here import hub_here
from run_world import run_here

from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.plan import make_plan
from gristmill.errors import GristmillError, SourceError, StorageError
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.pointer import read_pointers
from gristmill.pipelines.sources.source import Source

AT = "hf://datasets/owner/set"


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    with hub_here() as double:
        yield double


def picture(i: int) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def table(numbers: range) -> bytes:
    """Rows as `push_to_hub` writes them."""
    cells = [{"bytes": picture(i), "path": f"{i}.jpg"} for i in numbers]
    file = io.BytesIO()
    pq.write_table(pa.table({"image": cells, "text": [f"number {i}" for i in numbers]}), file)
    return file.getvalue()


def tar(numbers: range) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for i in numbers:
            for ending, data in (("jpg", picture(i)), ("txt", f"number {i}".encode())):
                info = tarfile.TarInfo(f"{i:06d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def lay(hub: HubDouble, kind: str, rows: int = 12, files: int = 3) -> None:
    """A repository of that kind, as people have them."""
    repository = hub.repository(private=True)
    repository.put("README.md", b"---\nlicense: mit\n---\n")
    repository.put(".gitattributes", b"*.parquet filter=lfs\n")
    for n, start in enumerate(range(0, rows, rows // files)):
        numbers = range(start, start + rows // files)
        if kind == "tables":
            repository.put(f"data/train-{n:05d}-of-{files:05d}.parquet", table(numbers))
        elif kind == "tars":
            repository.put(f"train/{n:05d}.tar", tar(numbers))
        else:
            for i in numbers:
                repository.put(f"{i:03d}.jpg", picture(i))
    if kind == "folder":
        lines = [{"file_name": f"{i:03d}.jpg", "text": f"number {i}"} for i in range(rows)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        repository.put("metadata.jsonl", text.encode())


def read(path: str) -> dict[str, bytes]:
    """Caption -> picture of each row."""
    source = Source(path=path)
    source.manifest()
    source.check_columns()
    rows = pa.concat_tables([rows for chunk in source.chunks() for rows in source.read(chunk)])
    found = dict(read_pointers(rows["pointer"].to_pylist(), 10**6))
    assert all(isinstance(data, bytes) for data in found.values()), found
    return {caption: found[i] for i, caption in enumerate(rows["caption"].to_pylist())}


@pytest.mark.parametrize(
    ("kind", "below"),
    [
        ("tables", "/data/*.parquet"), ("tables", "/data"), ("tables", ""), ("tables", "@main"),
        ("tars", "/train/*.tar"), ("tars", "/train/00000.tar," + AT + "/train/0000[12].tar"),
        ("tars", ""), ("folder", ""), ("folder", "/metadata.jsonl"),
    ],
)  # fmt: skip
def test_rows_of_a_repository(hub: HubDouble, kind: str, below: str) -> None:
    lay(hub, kind)
    assert read(AT + below) == {f"number {i}": picture(i) for i in range(12)}


@pytest.mark.parametrize("kind", ["tables", "tars", "folder"])
def test_what_is_asked_does_not_grow_with_rows(hub: HubDouble, kind: str) -> None:
    asked = []
    for rows in (12, 48):
        lay(hub, kind, rows)
        hub.asked.clear()
        source = Source(path=AT)
        source.manifest()
        source.check_columns()
        assert sum(len(t) for chunk in source.chunks() for t in source.read(chunk)) == rows
        asked.append(dict(hub.asked))
    assert asked[0] == asked[1]
    # A listing of the root, and one of the folder below; each file opened a few times.
    assert asked[0]["GET info"] == 1 and asked[0]["GET tree"] <= 2
    assert asked[0]["GET resolve"] <= 3 * 6


def test_a_member_is_fetched_alone(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(hub, "tars", 300, 1)
    source = Source(path=AT)
    (rows,) = [t for chunk in source.chunks() for t in source.read(chunk)]
    pointer = rows["pointer"][7].as_py()
    from huggingface_hub.hf_file_system import HfFileSystemFile

    fetched = []
    fetch = HfFileSystemFile._fetch_range

    def counted(self: HfFileSystemFile, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(HfFileSystemFile, "_fetch_range", counted)
    assert list(read_pointers([pointer], 10**6)) == [(0, picture(7))]
    assert fetched == [len(picture(7))]


def test_the_manifest_tells_files_apart_by_their_objects(hub: HubDouble) -> None:
    lay(hub, "tars")
    before = Source(path=AT).manifest()
    assert before == Source(path=AT).manifest()
    stored = hub.repositories["owner/set"].files["train/00001.tar"]
    changed = bytes([stored.data[0] ^ 1]) + stored.data[1:]
    hub.repositories["owner/set"].put("train/00001.tar", changed)
    after = Source(path=AT).manifest()
    assert [entry["name"] for entry in before] == [entry["name"] for entry in after]
    assert [a["size"] for a in before] == [b["size"] for b in after]
    differ = [a["name"] for a, b in zip(before, after, strict=True) if a != b]
    assert differ == [f"{AT}/train/00001.tar"]
    assert all(len(entry["modified"]) == 40 for entry in after)


def test_a_run_from_the_hub_and_its_plan(hub: HubDouble, tmp_path: Path) -> None:
    lay(hub, "tables")
    nodes = {
        "source": Node(Source(path=f"{AT}/data/*.parquet")),
        "download": Node(Download(image_size=16), ("source",)),
        "shards": Node(Shards(val_share=0.0), ("download",)),
    }
    dag = Dag("hub", nodes)
    plan = make_plan(dag, str(tmp_path / "run"))
    assert [node.node for node in plan.nodes] == list(nodes)
    summary = run_here(tmp_path, dag)
    assert (summary["rows_in"], summary["kept"]) == (12, 12)
    assert {s.caption for s in ShardSet(str(tmp_path / "run/shards"))} == {
        f"number {i}" for i in range(12)
    }
    told = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"hf_s3cret" in data for data in told)


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ("set", "owner/set is not there, or is private: .*`hf auth login`, or set HF_TOKEN"),
        ("set/data/*.parquet", "is not there, or is private"),
        ("set/data/train-00000-of-00003.parquet", "is not there, or is private"),
        ("none", "is not there, or is private"),
        ("gated/t/0.tar", "is gated: ask for access on its page"),
        ("gated/t/0.parquet", "is gated: ask for access on its page"),
        ("gated/t/0.jsonl", "is gated: ask for access on its page"),
        ("gated/t", "is gated: ask for access on its page"),
        ("gated/pictures", "is gated: ask for access on its page"),
        ("gated@v2/t", "has no such revision"),
    ],
)
@pytest.mark.parametrize("token", [None, STRANGER, "hf_unknownToTheHub00"])
def test_what_the_hub_refuses_is_said(token: str | None, below: str, why: str) -> None:
    with hub_here(token) as hub:
        lay(hub, "tables")
        gated = hub.repository("owner/gated", gated=True)
        for name, data in (
            ("t/0.tar", tar(range(2))), ("t/0.parquet", table(range(2))), ("pictures/0.jpg", b"x"),
            ("t/0.jsonl", b'{"url": "http://a.test/x.jpg"}\n'),
        ):  # fmt: skip
            gated.put(name, data)
        if token and token.startswith("hf_unknown"):
            why = "cannot be read with this token: log in"
        with pytest.raises(StorageError, match=why):
            read(f"hf://datasets/owner/{below}")


def test_what_is_not_there(hub: HubDouble) -> None:
    lay(hub, "tables")
    for path in (f"{AT}/data/train.parquet", f"{AT}/nothing", "hf://datasets/owner", "hf://"):
        with pytest.raises(SourceError):
            read(path)
    with pytest.raises(SourceError, match="no file matches"):
        read(f"{AT}/data/*.tar")


@pytest.mark.parametrize("kind", ["tables", "tars", "folder"])
def test_a_hub_in_trouble_is_no_verdict_on_rows(hub: HubDouble, kind: str) -> None:
    lay(hub, kind)
    hub.refuse = {"resolve": [503, 429]}
    assert len(read(AT)) == 12
    source = Source(path=AT)
    source.manifest()
    chunks = source.chunks()
    hub.refuse = {"resolve": [503] * 999}
    with pytest.raises((GristmillError, OSError)):
        rows = pa.concat_tables([t for chunk in chunks for t in source.read(chunk)])
        # The table of a folder was there; what it names is not.
        list(read_pointers(rows["pointer"].to_pylist(), 10**6))
