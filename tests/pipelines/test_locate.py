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
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from gristmill.pipelines.locate import files_below, locate, matching, open_url, unpack

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
        gzip.compress(b"text", mtime=0), bz2.compress(b"text"), lzma.compress(b"text"),
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


class Shelves(AsyncFileSystem):
    """A store of fsspec's asynchronous kind: folders by path, of which some cannot be listed."""

    cachable = False
    protocol = "shelves"

    def __init__(self, folders: dict[str, list[str]], broken: str = "") -> None:
        super().__init__()
        self.folders, self.broken = folders, broken

    async def _ls(self, path: str, detail: bool = True, **kwargs: object) -> list[dict[str, str]]:
        if path == self.broken:
            raise OSError(5, "the store fails", path)
        if path not in self.folders:
            raise FileNotFoundError(path)
        kinds = {True: "directory", False: "file"}
        paths = [f"{path}/{name}" for name in self.folders[path]]
        return [{"name": one, "type": kinds[one in self.folders]} for one in paths]


FOLDERS = {
    "top": ["a.csv", "b", "c.d"], "top/b": ["1.csv", "2.tsv", "deep"],
    "top/b/deep": ["3.csv", "[4].csv"], "top/c.d": ["5.csv"],
}  # fmt: skip
PATTERNS = (
    "top/*.csv", "top/*", "top/*/*.csv", "top/**/*.csv", "top/b/**", "to?/b/[12].*", "top/b/1.csv",
    "top/b/de*/*[34]*", "top/nothing/*", "top/*/deep/3.csv", "**/3.csv",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_find_what_fsspec_finds(pattern: str, tmp_path: Path) -> None:
    for folder, names in FOLDERS.items():
        for name in names:
            if f"{folder}/{name}" not in FOLDERS:
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / name).touch()
    fs = LocalFileSystem()
    below = f"{tmp_path}/{pattern}"
    itself = below[:-3] if below.endswith("/**") else ""
    found = {path.rstrip("/") for path in fs.glob(below)} - {itself}
    assert matching(fs, below) == sorted(found)


@pytest.mark.parametrize("broken", FOLDERS)
def test_a_folder_that_cannot_be_listed_makes_no_shorter_list(broken: str, tmp_path: Path) -> None:
    sound = Shelves(FOLDERS)
    assert len(files_below(sound, "top")) == 6 and len(matching(sound, "top/**/*.csv")) == 5
    for ask in (lambda fs: files_below(fs, "top"), lambda fs: matching(fs, "top/**/*.csv")):
        with pytest.raises(OSError, match="the store fails"):
            ask(Shelves(FOLDERS, broken))
    # What need not be looked into is not asked.
    assert matching(Shelves(FOLDERS, "top/b"), "top/c*/*") == ["top/c.d/5.csv"]
