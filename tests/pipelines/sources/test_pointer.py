"""Reads of pointers: what fails for a moment is tried again; a storage that does not answer is no
verdict on a row."""

from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from warc_files import Answer, write_warc

from gristmill.errors import StorageError
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.sources.pointer import (
    PointerError,
    compressed_tar_pointer,
    file_pointer,
    packed_warc_pointer,
    read_pointers,
    tar_pointer,
    warc_pointer,
)
from gristmill.pipelines.sources.warc_records import read_records


@pytest.fixture
def pointers(tmp_path: Path) -> list[str]:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    for name, mode in (("b.tar", "w"), ("c.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            info = tarfile.TarInfo("x.jpg")
            info.size = 7
            tar.addfile(info, io.BytesIO(b"picture"))
    archive = str(write_warc(tmp_path / "d.warc.gz", [Answer("http://h.test/x", b"picture")]))
    (*_, record) = read_records(archive, lambda record: 0)
    start, size = record.place or (0, 0)
    return [
        file_pointer(f"{tmp_path}/a.jpg"),
        tar_pointer(f"{tmp_path}/b.tar", 512, 7),
        compressed_tar_pointer(f"{tmp_path}/c.tar.gz", 0),
        warc_pointer(archive, start, size),
        packed_warc_pointer(archive, 1),
    ]


def said(pointers: list[str]) -> list[object]:
    found = dict(read_pointers(pointers, 100))
    return [str(f) if isinstance(f, PointerError) else f for _, f in sorted(found.items())]


def break_reads(monkeypatch: pytest.MonkeyPatch, times: int, *methods: str) -> None:
    """The first so many calls of methods of the disk fail."""
    left = [times]
    for name in methods:
        real = getattr(LocalFileSystem, name)

        def failing(self: Any, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(5, "the share hiccups")
            return real(self, *args, **kwargs)

        monkeypatch.setattr(LocalFileSystem, name, failing)


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("data:image/jpeg;base64,aGk=", b"hi"),
        ("data:;base64,a G\nk%3D", b"hi"),
        ("data:,hi%20there", b"hi there"),
        ("data:;base64,", b""),
        ("data:;base64,aGk", "broken data url"),
        ("data:image/png;base64,%%%", "broken data url"),
        ("data:image/png", "broken data url"),
        ("data:," + "x" * 101, "too large"),
        ("file:/" + "A" * 5_000, "file not found"),
        (f"file:{__file__}/b.jpg", "file not found"),
    ],
)
def test_bytes_lie_in_data_urls_and_in_no_file_of_an_impossible_name(
    pointer: str, expected: bytes | str
) -> None:
    ((_, found),) = read_pointers([pointer], 100)
    assert (found if isinstance(found, bytes) else str(found)) == expected


def test_a_share_that_hiccups_costs_no_row(
    pointers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_reads(monkeypatch, 5, "open", "cat_file")
    assert said(pointers) == [b"picture"] * len(pointers)


def test_a_share_that_is_empty_for_a_moment(pointers: list[str], tmp_path: Path) -> None:
    away = tmp_path.rename(tmp_path.with_name("away"))
    back = threading.Timer(0.1, away.rename, (tmp_path,))
    back.start()
    assert said(pointers) == [b"picture"] * len(pointers)
    back.join()


def test_one_file_that_stays_unreadable_is_a_reason_to_be_tried_again(
    pointers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    break_reads(monkeypatch, 10**6, "open", "cat_file")
    assert said(pointers) == ["read error"] * len(pointers)
    for reason in ("read error", "file not found", "truncated file"):
        assert Download().is_retryable("failed_to_download", reason)


def test_a_storage_that_does_not_answer_is_no_verdict(
    pointers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    break_reads(monkeypatch, 10**6, "open", "cat_file", "info")
    with pytest.raises(StorageError, match="the source cannot be reached"):
        said(pointers)


def test_what_ends_early_is_no_picture(
    pointers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:515])
    (tmp_path / "c.tar.gz").write_bytes((tmp_path / "c.tar.gz").read_bytes()[:40])
    (tmp_path / "d.warc.gz").write_bytes((tmp_path / "d.warc.gz").read_bytes()[:-40])
    assert said(pointers) == [b"picture", *["truncated file"] * 4]
