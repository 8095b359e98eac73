"""Tars: the same bytes for the same members, readable by others, places true."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from gristmill.pipelines.shards.tar import TarWriter, header, read_members

LONG = "x" * 60 + "/" + "y" * 60
MEMBERS = {"a.jpg": bytes(700), "a.json": b"{}", "a.txt": b"", "b.jpg": b"x" * 512}


def written() -> tuple[bytes, dict[str, int]]:
    file = io.BytesIO()
    writer = TarWriter(file)
    places = {name: writer.add(name, data) for name, data in MEMBERS.items()}
    writer.close()
    return file.getvalue(), places


def test_places_are_where_the_bytes_lie() -> None:
    data, places = written()
    for name, content in MEMBERS.items():
        assert data[places[name] : places[name] + len(content)] == content
    assert len(data) % 10_240 == 0 and written()[0] == data


def test_another_reader_finds_the_members_and_nobody_s_name() -> None:
    with tarfile.open(fileobj=io.BytesIO(written()[0])) as tar:
        found = tar.getmembers()
        contents = {one.name: tar.extractfile(one).read() for one in found}  # type: ignore[union-attr]
    assert contents == MEMBERS and list(contents) == list(MEMBERS)
    assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in found} == {
        (0, 0, 0, "", 0o644)
    }


@pytest.mark.parametrize(
    "name",
    ["a.jpg", f"{'0123456789abcdef' * 2}.10.jpg", "x" * 100, LONG, "\xe9.txt"],
)
@pytest.mark.parametrize("size", [0, 1, 700, 8**10, 8**11 - 1])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_what_was_written_is_read() -> None:
    data, _ = written()
    assert dict(read_members(io.BytesIO(data))) == MEMBERS
    long = io.BytesIO()
    writer = TarWriter(long)
    writer.add(LONG, b"long")
    writer.add("large.bin", bytes(200_000))
    writer.close()
    found = dict(read_members(io.BytesIO(long.getvalue())))
    assert found == {LONG: b"long", "large.bin": bytes(200_000)}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:600], "a.jpg is cut"),
        (lambda data: data[:1700], "no header"),
        (lambda data: b"", "no header"),
        (lambda data: b"x" * 2048, "no header"),
        (lambda data: data[:124] + b"nonsense123" + data[135:], "a.jpg has no size"),
        (lambda data: data[:124] + b"-0000001000" + data[135:], "a.jpg has no size"),
        (lambda data: data[:124] + b"0000000_100" + data[135:], "a.jpg has no size"),
        (lambda data: data[:124] + b"00000000190" + data[135:], "a.jpg has no size"),
    ],
)
def test_what_nobody_wrote_so_is_refused(damage: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(tarfile.ReadError, match=said):
        list(read_members(io.BytesIO(damage(written()[0]))))
