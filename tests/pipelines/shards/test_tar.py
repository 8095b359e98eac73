"""Tars: the same bytes for the same members, readable by others, places true."""

from __future__ import annotations

import io
import tarfile

from gristmill.pipelines.shards.tar import TarWriter

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
