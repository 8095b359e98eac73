"""A file's name is taken as it is, whatever fsspec would make of it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from gristmill.pipelines.locate import locate, open_url, unpack

ODD_NAMES = ["a::b.png", "u[1].parquet", "a,b.csv", "h#1", "c::d?e*f", "ä %20 b", "12:30:05.jpg"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(name.encode())
    for url in (str(tmp_path / name), f"file://{tmp_path}/{name}"):
        with open_url(url) as file:
            assert file.read() == name.encode()
    with fsspec.open(f"memory://odd/{name.replace('::', '_')}", "wb") as file:
        file.write(b"there")
    fs, path = locate(f"memory://odd/{name.replace('::', '_')}")
    assert fs.cat_file(path) == b"there"


def test_a_name_on_another_file_system_may_hold_two_colons() -> None:
    fs, path = locate("memory://odd/a::b.png")
    fs.pipe_file(path, b"x")
    with open_url("memory://odd/a::b.png") as file:
        assert file.read() == b"x"


def test_chains_stay_chains(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.txt", "inside")
    with open_url(f"zip://x.txt::{tmp_path}/a.zip") as file:
        assert file.read() == b"inside"


def test_packed_files_are_known_by_their_bytes() -> None:
    zstd, archive = pa.BufferOutputStream(), io.BytesIO()
    with pa.CompressedOutputStream(zstd, "zstd") as file:
        file.write(b"text")
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x.txt", "text")
    packed = [
        gzip.compress(b"text"), bz2.compress(b"text"), lzma.compress(b"text"),
        zstd.getvalue().to_pybytes(), archive.getvalue(),
    ]  # fmt: skip
    for data in packed:
        found = unpack(io.BytesIO(data))
        assert found is not None and found.read() == b"text"
    assert unpack(io.BytesIO(b"text")) is None and unpack(io.BytesIO(b"")) is None


def test_no_listing_is_believed_after_it_was_made() -> None:
    fs, _ = locate("memory://here/a.txt")
    fs.dircache["/here"] = []
    with pytest.raises(KeyError):
        fs.dircache["/here"]
