"""A set whose digests are right and whose samples are not is found out: whoever wrote it so."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_set import build

from gristmill.pipelines.sealed import read_sealed, write_sealed
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.storage import Folder

Members = dict[str, bytes]
Damage = Callable[[Members], None]


def rewrite(product: Path, name: str, data: bytes) -> None:
    """Put other bytes into a file, and into the manifest what is true of them."""
    (product / name).write_bytes(data)
    folder = Folder(str(product))
    manifest = read_sealed(folder, "manifest.json")
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    fact = next(fact for fact in [*shards, *manifest["files"]] if fact["name"] == name)
    fact |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_sealed(folder, "manifest.json", manifest)


def members_of(tar: Path) -> Members:
    with tarfile.open(tar) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened}  # type: ignore[union-attr]


def tar_of(members: Members) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def with_column(product: Path, column: str, values: Callable[[Members], pa.Array]) -> None:
    """Give the table of the first shard a column."""
    name = "train/metadata/00000000.parquet"
    table = pq.read_table(product / name)
    members = members_of(product / "train/00000000.tar")
    file = io.BytesIO()
    pq.write_table(table.append_column(column, values(members)), file)
    rewrite(product, name, file.getvalue())


def digests(members: Members) -> pa.Array:
    """Of the pictures as they were stored, in the order of the shard."""
    return pa.array([hashlib.sha256(d).hexdigest() for n, d in members.items() if n[-3:] == "jpg"])


def change(ending: str, data: bytes | None) -> Damage:
    """The first member of that ending becomes `data`; None: it goes."""

    def damage(members: Members) -> None:
        name = next(name for name in members if name.endswith(ending))
        if data is None:
            del members[name]
        else:
            members[name] = data

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change("jpg", b""), r"[0-9a-f]{32} has an empty picture or clip"),
        (change("jpg", b"\xff\xd8 another picture"), r"[0-9a-f]{32} has other bytes than were"),
        (change("json", b""), r"[0-9a-f]{32} has an empty \.json"),
        (change("txt", None), r"[0-9a-f]{32} has the members \['jpg', 'json'\]"),
        (change("jpg", None), r"[0-9a-f]{32} has the members \['json', 'txt'\]"),
    ],
    ids=["empty picture", "other picture", "empty facts", "no text", "no picture"],
)
def test_a_sample_that_is_not_what_was_stored(damage: Damage, said: str, tmp_path: Path) -> None:
    product = build(tmp_path, [20])
    with_column(product, "stored_sha256", digests)
    assert verify_shards(str(product)) == []
    members = members_of(product / "train/00000000.tar")
    damage(members)
    rewrite(product, "train/00000000.tar", tar_of(members))
    problem, *_ = verify_shards(str(product))
    assert re.search(said, problem), problem


def test_an_empty_picture_in_parquet(tmp_path: Path) -> None:
    product = build(tmp_path, [20], format="parquet")
    assert verify_shards(str(product)) == []
    name = "train/00000000.parquet"
    table = pq.read_table(product / name)
    place = table.schema.get_field_index("image")
    cells = table["image"].to_pylist()
    cells[0]["bytes"] = b""
    field = table.schema.field(place)
    file = io.BytesIO()
    pq.write_table(table.set_column(place, field, pa.array(cells, field.type)), file)
    rewrite(product, name, file.getvalue())
    (problem,) = verify_shards(str(product))
    assert "has an empty picture or clip" in problem


def test_empty_tokens(tmp_path: Path) -> None:
    product = build(tmp_path, [20])

    def tokens(members: Members) -> pa.Array:
        count = len(digests(members))
        return pa.array([[], *([1, 2],) * (count - 1)], pa.list_(pa.int32()))

    with_column(product, "image_codes", tokens)
    (problem,) = verify_shards(str(product))
    assert "has empty tokens" in problem


def test_a_picture_of_another_format_than_is_said_is_found(tmp_path: Path) -> None:
    product = build(tmp_path, [40])
    assert verify_shards(str(product)) == []
    name = "train/metadata/00000000.parquet"
    table = pq.read_table(product / name)
    at = table.schema.get_field_index("format")
    formats = ["png", *table["format"].to_pylist()[1:]]
    file = io.BytesIO()
    pq.write_table(table.set_column(at, "format", pa.array(formats)), file)
    rewrite(product, name, file.getvalue())
    assert [re.sub(r".*: \w+", "it", line) for line in verify_shards(str(product))] == [
        "it is a jpg and is said to be a png"
    ]
