"""Tars of anybody as a source: each picture is a row, or a row with its reason."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import bytes_of, jpeg, read, write_tar


def zstd(path: Path) -> Path:
    target = path.with_name(f"{path.name}.zst")
    with pa.output_stream(str(target), compression="zstd") as file:
        file.write(path.read_bytes())
    return target


@pytest.mark.parametrize("packed", ["", ":gz", ":bz2", ":xz", "zst"])
def test_tars_of_every_packing_say_the_same(packed: str, tmp_path: Path) -> None:
    ending = packed.strip(":")
    path = tmp_path / ("a.tar" if ending in ("", "zst") else f"a.tar.{ending}")
    members = [(f"{i}.{end}", data) for i in range(4) for end, data in
               (("jpg", jpeg(i)), ("txt", f"caption {i}".encode()))]  # fmt: skip
    members += [("4.jpg", "1.jpg"), ("4.txt", "2.txt"), ("5.jpg", "none.jpg"), ("._1.jpg", b"\0")]
    write_tar(path, members, f"w{packed}" if ending != "zst" else "w")
    rows = read(zstd(path) if ending == "zst" else path)
    captions = [f"caption {i}" for i in (0, 1, 2, 3, 2)]
    assert [row["caption"] for row in rows] == [*captions, None]
    assert [row["error"] for row in rows] == [None] * 5 + ["link to no member"]
    assert bytes_of(rows[:5]) == [jpeg(i) for i in (0, 1, 2, 3, 1)]
    assert rows[4]["sha256"] == rows[1]["sha256"]


def test_dotted_names_with_texts_of_their_own_are_samples(tmp_path: Path) -> None:
    members = [(f"IMG 2.{i}.{end}", data) for i in range(3) for end, data in
               (("jpg", jpeg(i)), ("txt", f"c{i}".encode()))]  # fmt: skip
    rows = read(write_tar(tmp_path / "a.tar", members))
    assert [row["caption"] for row in rows] == ["c0", "c1", "c2"]
    assert bytes_of(rows) == [jpeg(i) for i in range(3)]


def test_pictures_that_share_a_text_are_named(tmp_path: Path) -> None:
    members = [("0.0.jpg", jpeg(0)), ("0.1.jpg", jpeg(1)), ("0.txt", b"both")]
    rows = read(write_tar(tmp_path / "a.tar", members))
    assert [row["error"] for row in rows] == ["several pictures in one sample"] * 2
    assert len({row["uid"] for row in rows}) == 2


def test_members_apart_are_said_so(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", jpeg(i)) for i in range(3)] + [(f"{i}.txt", b"red") for i in range(2)]
    rows = read(write_tar(tmp_path / "a.tar", members))
    apart = "members not side by side"
    assert [row["error"] for row in rows] == [apart, apart, None, apart, apart]


@pytest.mark.parametrize(
    ("members", "caption", "error"),
    [
        ([("0.jpg", b"x"), ("0.txt", b"caf\xe9")], None, "text is not UTF-8"),
        ([("0.jpg", b"x"), ("0.txt.gz", gzip.compress(b" a ", mtime=0))], "a", None),
        ([("0.jpg", b"x"), ("0.txt.gz", b"no gzip")], None, "text is not UTF-8"),
        ([("0.jpg", b"x"), ("0.json", b"{broken")], None, "broken json sidecar"),
        ([("0.jpg", b"x"), ("0.json", b'{"caption": "a", "caption": "b"}')], None,
         "broken json sidecar"),
        ([("0.jpg", b"x"), ("0.json", b"{broken"), ("0.txt", b"a")], "a", None),
        ([("0.jpg", b"x"), ("0.json", b'{"caption": {"en": "a"}}')], None, None),
        ([("0.jpg", b"x"), ("0.caption", b"b"), ("0.txt", b"a")], "a", None),
        ([("0.txt", b"a"), ("0.json", b"{}")], "a", "no image member"),
        ([("0.jpg", b"x"), ("0.json", b"[1, 2]")], None, None),
        ([("0.jpg", b"x"), ("0.txt", b"\xef\xbb\xbfa")], "a", None),
    ],
)  # fmt: skip
def test_texts_of_a_sample(
    members: list[tuple[str, bytes | str]], caption: str | None, error: str | None, tmp_path: Path
) -> None:
    (row,) = read(write_tar(tmp_path / "a.tar", members))
    assert (row["caption"], row["error"]) == (caption, error)


def test_several_captions_of_a_sample_are_rows(tmp_path: Path) -> None:
    listed = json.dumps({"captions": ["one", "two"]}).encode()
    members = [("0.jpg", jpeg(0)), ("0.json", listed), ("1.jpg", jpeg(1)), ("1.en.txt", b"three"),
               ("1.de.txt", b"drei")]  # fmt: skip
    rows = read(write_tar(tmp_path / "a.tar", members))
    assert [row["caption"] for row in rows] == ["one", "two", "three", "drei"]
    assert len({row["image_id"] for row in rows}) == 2


def test_a_caption_that_does_not_count_is_not_lost(tmp_path: Path) -> None:
    members = [("0.jpg", b"x"), ("0.caption", b"b"), ("0.txt", b"a")]
    (row,) = read(write_tar(tmp_path / "a.tar", members))
    assert json.loads(row["meta"])["caption"] == "b"


def test_what_is_wrong_with_a_tar_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", jpeg(i)) for i in range(4)])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    with tarfile.open(path) as tar:
        damaged[tar.getmembers()[2].offset + 3] ^= 255
    for data, reason, rows in (
        (whole[:2500], "truncated tar", 2), (bytes(damaged), "broken tar", 3),
        (b"no tar" * 999, "not a tar", 1), (b"\x28\xb5\x2f\xfd..", "not a tar", 1),
    ):  # fmt: skip
        path.write_bytes(data)
        found = read(path)
        assert found[-1]["error"] == reason and len(found) == rows


def test_an_img2dataset_folder_whose_tar_and_parquet_differ(tmp_path: Path) -> None:
    members = [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1)), ("1.jpg", jpeg(2)), ("3.jpg", jpeg(3))]
    write_tar(tmp_path / "00000.tar", members)
    facts = [
        {"url": f"http://h/{i}", "caption": "c", "key": str(i), "status": "success"}
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(facts), tmp_path / "00000.parquet")
    assert [row["error"] for row in read(tmp_path)] == [
        None, "two members of one name", "no image member", "member without a line in the parquet",
    ]  # fmt: skip


def test_an_img2dataset_parquet_with_texts_as_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("0.jpg", jpeg(0))])
    facts = {
        "url": [b"http://h/0", b"http://h/1"], "caption": [b"a", b"\xff"], "key": [b"0", b"1"],
        "status": [b"success", b"failed_to_resize"], "error_message": [None, b"too small"],
    }  # fmt: skip
    pq.write_table(pa.table(facts), tmp_path / "0.parquet")
    rows = read(tmp_path)
    assert [(row["caption"], row["error"]) for row in rows] == [("a", None), (None, "too small")]
