"""Records of crawl archives, sound and damaged: each is there once, or is counted as damage."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from warc_files import Answer, write_warc

from gristmill.errors import SourceError
from gristmill.pipelines.sources.reasons import BROKEN_RECORD, TRUNCATED_RECORD
from gristmill.pipelines.sources.warc_records import (
    WarcRecord,
    first_records,
    parse_record,
    read_records,
)

# An archive of a warcinfo and these.
PAGES = 5
BODIES = [b"<html><p>page %d of five</p><img src=a.jpg alt=boat>" % i * (i + 1) for i in range(5)]


def archive(folder: Path, *, packed: bool) -> bytes:
    answers = [Answer(f"http://h.test/{i}", body) for i, body in enumerate(BODIES)]
    return write_warc(folder / "made.warc", answers, gzip=packed).read_bytes()


def members(data: bytes) -> list[bytes]:
    """The members of a gzip file, unpacked."""
    found = []
    while data:
        member = zlib.decompressobj(31)
        found.append(member.decompress(data))
        data = member.unused_data
    return found


def read(folder: Path, data: bytes, limit: int = 10**6) -> list[WarcRecord]:
    path = folder / "read.warc"
    path.write_bytes(data)
    return list(read_records(str(path), lambda record: limit))


def whole(records: list[WarcRecord]) -> list[int]:
    """The numbers of the pages that are as they were written."""
    found = []
    for record in records:
        if record.kind == "response" and not record.problem:
            number = int(record.uri.rpartition("/")[2])
            assert record.payload == BODIES[number]
            assert record.status == 200 and record.content_type == "text/html"
            assert record.charset == "utf-8" and not record.more
            found.append(number)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_each_record_is_read_alone_by_its_place(packed: bool, tmp_path: Path) -> None:
    data = archive(tmp_path, packed=packed)
    records = read(tmp_path, data)
    assert [record.number for record in records] == list(range(PAGES + 1))
    assert whole(records) == list(range(PAGES))
    end = 0
    for record in records:
        assert record.place is not None
        offset, size = record.place
        assert offset == end
        end = offset + size
        alone = parse_record(data[offset:end], 10**6)
        assert alone is not None and alone.payload == record.payload and alone.uri == record.uri
    assert end == len(data)


@pytest.mark.parametrize("form", ["one member", "two a member", "zst", "lz4"])
def test_what_is_not_packed_record_by_record_has_no_places(form: str, tmp_path: Path) -> None:
    plain = archive(tmp_path, packed=False)
    records = members(archive(tmp_path, packed=True))
    if form == "one member":
        data = gzip.compress(plain, mtime=0)
    elif form == "two a member":
        data = b"".join(
            gzip.compress(b"".join(records[i : i + 2]), mtime=0) for i in range(0, 6, 2)
        )
    else:
        codec = pa.Codec({"zst": "zstd", "lz4": "lz4"}[form])
        data = b"".join(codec.compress(record, asbytes=True) for record in records)
    found = read(tmp_path, data)
    assert whole(found) == list(range(PAGES))
    assert {record.place for record in found} == {None}


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_is_cut_anywhere_says_so(packed: bool, tmp_path: Path) -> None:
    data = archive(tmp_path, packed=packed)
    starts = [record.place[0] for record in read(tmp_path, data) if record.place]
    last = starts[-1]
    for cut in range(last + 1, len(data)):
        found = read(tmp_path, data[:cut])
        pages = whole(found)
        if pages == list(range(PAGES)):
            # What ends a record may be missing, no more: two line ends.
            assert not packed and cut >= len(data) - 4
        else:
            assert pages == list(range(PAGES - 1))
            assert found[-1].problem in (TRUNCATED_RECORD, BROKEN_RECORD)
    for cut in starts[1:]:
        # Between records nobody can tell.
        found = read(tmp_path, data[:cut])
        assert not any(record.problem for record in found)


@pytest.mark.parametrize("by", [-5, 5, 300, 10**6, 10**12])
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_length_costs_that_record_alone(packed: bool, by: int, tmp_path: Path) -> None:
    records = members(archive(tmp_path, packed=True))

    def longer(found: re.Match[bytes]) -> bytes:
        return b"Content-Length: %d" % (int(found[1]) + by)

    records[3] = re.sub(rb"Content-Length: (\d+)", longer, records[3], count=1)
    data = b"".join(map(gzip.compress, records) if packed else records)
    found = read(tmp_path, data)
    assert whole(found) == [0, 1, 3, 4]
    assert [record.uri[-1:] for record in found if record.problem] == ["2"]


def test_without_a_digest_a_record_before_damage_is_not_believed(tmp_path: Path) -> None:
    records = members(archive(tmp_path, packed=True))
    records[3] = re.sub(rb"WARC-Block-Digest: [^\r]*\r\n", b"", records[3])
    sound = read(tmp_path, b"".join(records))
    assert whole(sound) == list(range(PAGES))
    found = read(tmp_path, b"".join([*records[:4], b"garbage\r\n\r\n", *records[4:]]))
    assert whole(found) == [0, 1, 3, 4]


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_between_records_are_one_damage(packed: bool, tmp_path: Path) -> None:
    records = members(archive(tmp_path, packed=True))
    pieces = list(map(gzip.compress, records)) if packed else records
    found = read(tmp_path, b"".join([*pieces[:3], b"garbage garbage\r\n\r\n", *pieces[3:]]))
    assert whole(found) == list(range(PAGES))
    assert [record.is_damage for record in found if record.problem] == [True]


@pytest.mark.parametrize("harm", ["cut", "flipped", "crc"])
def test_a_broken_member_costs_itself(harm: str, tmp_path: Path) -> None:
    pieces = list(map(gzip.compress, members(archive(tmp_path, packed=True))))
    broken = bytearray(pieces[3])
    if harm == "flipped":
        broken[len(broken) // 2] ^= 0xFF
    pieces[3] = bytes(broken[:-60] if harm == "cut" else broken)
    if harm == "crc":
        pieces[3] = pieces[3][:-8] + bytes(8)
    found = read(tmp_path, b"".join(pieces))
    assert whole(found) == [0, 1, 3, 4]
    assert sum(bool(record.problem) for record in found) == 1


def test_zeros_between_members_are_padding(tmp_path: Path) -> None:
    pieces = list(map(gzip.compress, members(archive(tmp_path, packed=True))))
    found = read(tmp_path, bytes(700).join(pieces) + bytes(100))
    assert whole(found) == list(range(PAGES)) and not any(record.problem for record in found)


@pytest.mark.parametrize("seed", range(200))
def test_damage_of_any_kind_is_read(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    plain = archive(tmp_path, packed=False)
    data = bytearray(
        rng.choice([plain, archive(tmp_path, packed=True), gzip.compress(plain, mtime=0)])
    )
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        harm = rng.randrange(3)
        if harm == 0:
            data[at] = rng.randrange(256)
        elif harm == 1:
            del data[at : at + rng.randint(1, 300)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 50))
    found = read(tmp_path, bytes(data), rng.choice([0, 10, 10**6]))
    assert [record.number for record in found] == list(range(len(found)))


def test_no_more_is_read_of_a_payload_than_is_wanted(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [Answer("http://h.test/0", b"x" * 100_000)])
    _, record = read_records(str(path), lambda record: 1_000)
    assert len(record.payload) == 1_000 and record.more
    _, record = read_records(str(path), lambda record: 0)
    assert record.payload == b""


@pytest.mark.parametrize("data", [b"", b"<html>no archive", gzip.compress(b"<html>none", mtime=0)])
def test_what_is_no_archive_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(data)
    with pytest.raises(SourceError, match="does not begin with a record"):
        first_records(str(tmp_path / "a.warc.gz"), 3)
