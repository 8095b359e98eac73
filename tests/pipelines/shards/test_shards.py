"""Shards: the same bytes whatever the parts, every promise to readers kept, damage found."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_set import ROWS, SCHEMA, build, picture

from gristmill.errors import ConfigurationError, GraphError, ShardError
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards import reader
from gristmill.pipelines.shards.reader import ShardSet, spread
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.shards.verify import verify_shards


def files_of(product: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(product)): path.read_bytes()
        for path in sorted(product.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_parts_and_order_decide_no_byte(kind: str, tmp_path: Path) -> None:
    first = files_of(build(tmp_path / "a", [7, 30], format=kind))
    order = np.random.default_rng(0).permutation(ROWS)
    second = files_of(build(tmp_path / "b", [1, 2, 20], order, format=kind))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    other = files_of(build(tmp_path / "c", [20], format=kind, seed=1))
    ending = "tar" if kind == "webdataset" else "parquet"
    assert other[f"train/00000000.{ending}"] != first[f"train/00000000.{ending}"]


def test_the_golden_layout(tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    manifest = json.loads((product / "manifest.json").read_text())
    counts = {
        split: [s["samples"] for s in found["shards"]]
        for split, found in manifest["splits"].items()
    }
    assert sum(map(sum, counts.values())) == ROWS and max(counts["train"]) == 15
    assert {p.name for p in (product / "train").iterdir()} >= {
        "00000000.tar", "00000000_stats.json", "sizes.json", "shardindex.json", "metadata",
    }  # fmt: skip
    assert {"croissant.json", "DATASET_CARD.md"} <= {p.name for p in product.iterdir()}
    keys: list[str] = []
    for shard in sorted(product.rglob("*.tar")):
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}
        names = [member.name for member in members]
        assert names == sorted(names) and len(names) % 3 == 0
        for i in range(0, len(names), 3):
            key = names[i].split(".")[0]
            assert names[i : i + 3] == [f"{key}.jpg", f"{key}.json", f"{key}.txt"]
            keys.append(key)
    assert len(set(keys)) == len(keys) == ROWS


def test_json_members_are_typed_and_never_null(tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    kinds: dict[str, set[type]] = {}
    for shard in product.rglob("*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    for name, value in json.load(tar.extractfile(member)).items():  # type: ignore[arg-type]
                        kinds.setdefault(name, set()).add(type(value))
    assert all(len(found) == 1 and type(None) not in found for found in kinds.values())
    assert kinds["clip_score"] == {float} and kinds["blank"] == {bool} and kinds["url"] == {str}


def test_copies_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    product = build(tmp_path, [20], val_share=0.5)
    side = {}
    for split in ("train", "val"):
        for file in (product / split / "metadata").iterdir():
            for row in pq.read_table(file).to_pylist():
                side.setdefault(row["duplicate_group"], set()).add(split)
    assert all(len(found) == 1 for found in side.values())
    assert {s for found in side.values() for s in found} == {"train", "val"}


def test_a_shard_closes_at_its_bytes(tmp_path: Path) -> None:
    size = len(picture(0)) * 4
    product = build(tmp_path, [20], bytes_per_shard=size)
    manifest = json.loads((product / "manifest.json").read_text())
    assert max(s["samples"] for s in manifest["splits"]["train"]["shards"]) <= 5
    assert len(manifest["splits"]["train"]["shards"]) > 5


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_random_access(kind: str, tmp_path: Path) -> None:
    product = build(tmp_path, [20], format=kind)
    samples = ShardSet(str(product))
    again = pickle.loads(pickle.dumps(samples))
    numbers = {digest_fields(str(i)): i for i in range(ROWS)}
    assert len(samples) + len(ShardSet(str(product), "val")) == ROWS
    seen = [sample.uid for sample in samples]
    assert len(set(seen)) == len(samples)
    for index in (0, 17, -1):
        sample = again[index]
        assert sample.uid == seen[index]
        assert sample.image == picture(numbers[sample.uid])
        assert sample.caption == (
            "" if numbers[sample.uid] == 3 else f"caption {numbers[sample.uid]} <é>"
        )
    with pytest.raises(IndexError):
        samples[len(samples)]
    assert [*samples] == [samples[i] for i in range(len(samples))]
    assert len(list(spread(samples, 5))) == 5


def test_members_are_read_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = ShardSet(str(build(tmp_path, [20])))
    name = samples.shards[0]["name"]
    data = (tmp_path / "product" / name).read_bytes()
    # None, several, one before the other, one twice.
    places = [[], [(700, 9), (20, 5)], [], [(10, 4)], [(900, 3)], [(900, 3)], []]
    for size in (1, 10, 2**20):
        monkeypatch.setattr(reader, "_READ_BYTES", size)
        found = list(samples._members(name, places))
        assert found == [tuple(data[at : at + n] for at, n in some) for some in places]


def test_damage_of_what_readers_rely_on_is_said(tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    tar, table = product / "train/00000000.tar", product / "train/metadata/00000000.parquet"
    whole, known = tar.read_bytes(), table.read_bytes()
    for size in (b"-0000001000", b"77777777777", b"00000000000"):
        tar.write_bytes(whole[:124] + size + whole[135:])
        assert ["another digest" in one for one in verify_shards(str(product))] == [True]
    tar.write_bytes(whole)
    pq.write_table(pa.table({"other": [1]}), table)
    assert ["another digest" in one for one in verify_shards(str(product))] == [True]
    table.write_bytes(known)
    assert verify_shards(str(product)) == []


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    url = str(product)
    assert verify_shards(url) == []
    tar = product / "train" / "00000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    assert "another digest" in verify_shards(url)[0]
    tar.write_bytes(data[:4000])
    with pytest.raises(ShardError, match="has 4000 bytes, the manifest says"):
        ShardSet(url)
    tar.unlink()
    assert "is missing" in verify_shards(url)[0]
    with pytest.raises(ShardError, match="is missing"):
        ShardSet(url)
    (product / "manifest.json").unlink()
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        ShardSet(url)
    assert "no manifest" in verify_shards(url)[0]


def test_a_stranger_s_file_is_named(tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    (product / "train" / "00000099.tar").write_bytes(b"")
    assert "is not in the manifest" in verify_shards(str(product))[0]


def test_foreign_text_cannot_break_the_card(tmp_path: Path) -> None:
    card = (build(tmp_path, [20]) / "DATASET_CARD.md").read_text()
    assert "Test \\| &lt;set>" in card and "| CC-BY | 20 |" in card


def test_wrong_fields_and_missing_columns_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose one of webdataset, parquet"):
        Shards(format="zip").check()
    with pytest.raises(GraphError, match="give the Tokens node"):
        Shards(pictures=False).resolve_columns(SCHEMA)
    with pytest.raises(GraphError, match="blob_offset"):
        Shards().resolve_columns(pa.schema([f for f in SCHEMA if f.name != "blob_offset"]))
