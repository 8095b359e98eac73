"""One rule for tars: webdataset's keys, and what it does not say: links, dots, members apart."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import webdataset.tariterators
from source_files import write_tar

from gristmill.pipelines import tar_samples
from gristmill.pipelines.tar_samples import (
    TarMembers,
    TarSample,
    kind_of_text,
    samples_of,
    split_name,
)


@pytest.mark.parametrize(
    "name",
    [
        "0.jpg",
        "a/b/0.jpg",
        "a.b/0.jpg",
        "0.seg.png",
        "IMG 2.0.JPG",
        "README",
        "a.b/README",
        "é.txt",
    ],
)
def test_names_are_split_as_webdataset_does(name: str) -> None:
    key, ending = webdataset.tariterators.base_plus_ext(name)
    assert split_name(name) == ((key, ending.lower()) if key else None)


@pytest.mark.parametrize("name", ["._0.jpg", "a/.0.jpg", "__MACOSX/._0.jpg", ".DS_Store", "./.x.y"])
def test_dot_files_are_no_members(name: str) -> None:
    assert split_name(name) is None
    assert split_name("./a/0.jpg") == ("a/0", "jpg") and split_name("./0.jpg") == ("0", "jpg")


@dataclass(frozen=True)
class Named:
    key: str
    extension: str


def grouped(*names: str) -> list[TarSample[Named]]:
    members = [Named(*(split_name(name) or ("", ""))) for name in names]
    return list(samples_of(members, lambda ending: ending.rpartition(".")[2] in ("jpg", "png")))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("0.jpg 0.txt 1.jpg 1.txt", "0:jpg 1:jpg"),
        # A text of its own for each picture.
        ("I.0.jpg I.0.txt I.1.jpg I.1.txt", "I.0:jpg I.1:jpg"),
        ("I.0.jpg I.1.jpg I.1.json I.0.json", "I.0:jpg I.1:jpg"),
        ("I.jpg I.txt I.2.jpg I.2.txt", "I:jpg I.2:jpg"),
        ("photo.v2.jpg photo.v2.txt", "photo.v2:jpg"),
        ("I.0.jpg I.1.jpg", "I.0:jpg I.1:jpg"),
        # Pictures that share a text: the one without more endings is meant, if there is one.
        ("0.jpg 0.seg.png 0.txt", "0:jpg"),
        ("0.v2.jpg 0.txt", "0:v2.jpg"),
        ("0.0.jpg 0.1.jpg 0.txt", "0:several 0:several"),
        ("0.jpg 0.png 0.txt", "0:several 0:several"),
        ("0.jpg 0.jpg 0.txt", "0:two 0:two"),
        ("0.txt 0.json", "0:None"),
        # Keys that come again: pieces of samples, or samples that are whole by themselves.
        ("0.jpg 1.jpg 0.txt 1.txt", "0:side 1:side 0:side 1:side"),
        ("0.jpg 0.txt 1.jpg 1.txt 1.json 0.json", "0:side 1:jpg 0:side"),
        ("0.jpg 0.txt 1.jpg 1.txt 0.jpg 0.txt", "0:jpg 1:jpg 0:jpg"),
    ],
)
def test_members_are_grouped(names: str, found: str) -> None:
    words = {"several": "several pictures in one sample", "two": "two members of one name",
             "side": "members not side by side"}  # fmt: skip
    expected = [pair.split(":") for pair in found.split()]
    samples = grouped(*names.split())
    assert [s.key for s in samples] == [key for key, _ in expected]
    for sample, (_, word) in zip(samples, expected, strict=True):
        assert sample.reason == words.get(word)
        if word not in words:
            assert str(sample.picture) == word


def test_pieces_beyond_what_is_held_say_so_at_least_where_they_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tar_samples, "_HELD", 2)
    samples = grouped("0.jpg", "1.jpg", "2.jpg", "0.txt")
    assert [s.reason for s in samples] == [None, None, None, "members not side by side"]


def test_the_caption_that_counts() -> None:
    assert grouped("0.jpg", "0.caption", "0.txt")[0].captions() == ["txt"]
    assert grouped("0.jpg", "0.en.txt", "0.de.txt")[0].captions() == ["en.txt", "de.txt"]
    assert kind_of_text("txt.gz") == "txt" and kind_of_text("v2.json") == "json"
    assert kind_of_text("jpg") is None


def test_links_stand_for_what_they_lead_to(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", [("a/0.jpg", b"red"), ("a/1.jpg", "a/0.jpg"), ("2.jpg", "no.jpg")]
    )
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        info = tarfile.TarInfo("a/3.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "../a/0.jpg"
        tar.addfile(info)
    with (tmp_path / "a.tar").open("rb") as file:
        found = [(m.name, m.number, data) for m, data in TarMembers(file).read(lambda _: True)]
    assert found == [
        ("a/0.jpg", 0, b"red"), ("a/1.jpg", 0, b"red"), ("2.jpg", -1, None), ("a/3.jpg", 0, b"red"),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [100, 512, 700, 1536, 2048, 9000])
def test_a_cut_tar_is_truncated_wherever_it_is_cut(cut: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", bytes(900)) for i in range(3)])
    tar = TarMembers(io.BytesIO(path.read_bytes()[:cut]))
    found = list(tar.read(lambda _: True))
    assert tar.problem == ("truncated tar" if cut < 6_000 else None)
    assert len(found) <= cut // 1536


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "truncated tar"), (b"x" * 5_000, "not a tar"), (b"\x1f\x8b" + b"x" * 500, "not a tar"),
     (b"\x28\xb5\x2f\xfd" + b"x" * 500, "not a tar"), (b"BZh9" + b"x" * 500, "not a tar")],
)  # fmt: skip
def test_what_is_no_tar_is_not_called_truncated(data: bytes, problem: str) -> None:
    tar = TarMembers(io.BytesIO(data))
    assert list(tar.read(lambda _: True)) == [] and tar.problem == problem


def test_a_broken_header_does_not_end_a_tar_without_a_word(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x") for i in range(4)])
    data = bytearray(path.read_bytes())
    data[2 * 1024 + 5] ^= 255
    tar = TarMembers(io.BytesIO(bytes(data)))
    assert len(list(tar.read(lambda _: True))) == 2 and tar.problem == "broken tar"


def test_an_error_of_the_storage_is_no_broken_tar(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 1024:
                raise OSError(5, "Input/output error")
            return super().read(size)

    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x") for i in range(4)])
    with pytest.raises(OSError, match="Input/output"):
        list(TarMembers(Failing(path.read_bytes())).read(lambda _: True))
