"""Payloads without what servers wrap them in."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pyarrow as pa
import pytest

from gristmill.pipelines.sources.reasons import BROKEN_PAYLOAD
from gristmill.pipelines.sources.warc_records import WarcRecord
from gristmill.pipelines.sources.web_payload import PayloadError, payload_of

PAGE = b"<html><body>boats on the river</body></html>" * 50


def record(payload: bytes, *headers: tuple[str, str], cut: bool = False) -> WarcRecord:
    return WarcRecord(payload=payload, headers=headers, cut=cut)


def chunked(data: bytes, size: int = 100, end: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x;name=x\r\n%s\r\n" % (len(p), p) for p in pieces) + end


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ZSTD = pa.Codec("zstd").compress(PAGE, asbytes=True)
GZIP = gzip.compress(PAGE, mtime=0)
ENCODINGS = {
    "gzip": GZIP, "x-gzip": GZIP, "GZip": GZIP,
    "deflate": zlib.compress(PAGE), "br": brotli.compress(PAGE), "zstd": ZSTD, "identity": PAGE,
    "none": PAGE, "": PAGE, "gzip, br": brotli.compress(GZIP),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_are_taken_off(name: str) -> None:
    sent = ENCODINGS[name]
    assert payload_of(record(sent, ("Content-Encoding", name)), 10**6) == PAGE
    both = record(chunked(sent), ("Transfer-Encoding", "Chunked"), ("content-encoding", name))
    assert payload_of(both, 10**6) == PAGE
    transfer = record(sent, ("Transfer-Encoding", name))
    assert payload_of(transfer, 10**6) == PAGE


def test_deflate_comes_with_and_without_its_head() -> None:
    sent = record(raw_deflate(PAGE), ("Content-Encoding", "deflate"))
    assert payload_of(sent, 10**6) == PAGE


@pytest.mark.parametrize("name", ["gzip", "br", "deflate", "zstd", "compress"])
@pytest.mark.parametrize("data", [PAGE, b"\xff\xd8\xff\xe0 a picture", b"\x89PNG", b"\n <!doctype"])
def test_what_the_crawler_unpacked_already_is_taken(name: str, data: bytes) -> None:
    assert payload_of(record(data, ("Content-Encoding", name)), 10**6) == data
    assert payload_of(record(data, ("Transfer-Encoding", "chunked")), 10**6) == data


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (GZIP[:-20], ("Content-Encoding", "gzip")),
        (b"\x1f\x8b\x08 nothing", ("Content-Encoding", "gzip")),
        (brotli.compress(PAGE)[:20], ("Content-Encoding", "br")),
        (ZSTD[:-10], ("Content-Encoding", "zstd")),
        (b"boats", ("Content-Encoding", "unheard-of")),
        (GZIP, ("Content-Encoding", ",".join(["gzip"] * 9))),
        (chunked(PAGE, end=b"")[:-30], ("Transfer-Encoding", "chunked")),
        (chunked(PAGE, end=b"zz\r\n"), ("Transfer-Encoding", "chunked")),
    ],
)
def test_what_cannot_be_unwrapped_has_its_reason(data: bytes, header: tuple[str, str]) -> None:
    with pytest.raises(PayloadError, match=BROKEN_PAYLOAD):
        payload_of(record(data, header), 10**6)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_of_what_its_crawler_cut_the_beginning_is_taken(name: str) -> None:
    sent = ENCODINGS[name][:-12]
    found = payload_of(record(sent, ("Content-Encoding", name), cut=True), 10**6)
    assert found and PAGE.startswith(found)
    cut = record(chunked(PAGE)[:-500], ("Transfer-Encoding", "chunked"), cut=True)
    found = payload_of(cut, 10**6)
    assert found and PAGE.startswith(found)


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_little_that_unpacks_to_much_is_not_unpacked_to_its_end(name: str) -> None:
    much = bytes(10**7)
    packers = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}
    if name == "zstd":
        sent = pa.Codec("zstd").compress(much, asbytes=True)
    else:
        sent = packers[name](much)
    assert len(payload_of(record(sent, ("Content-Encoding", name)), 1_000)) == 1_001
