"""What a server sent, without what it was wrapped in: chunks and content encodings, bounded."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from fastwarc.stream_io import BrotliReader

from gristmill.pipelines.sources.reasons import BROKEN_PAYLOAD
from gristmill.pipelines.sources.warc_records import WarcRecord

# Encodings laid over each other beyond these are nobody's.
_MOST_ENCODINGS = 4
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
# What is not packed although its header says so: crawlers unpack and keep the header.
_PLAIN = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*<|\xff\xd8\xff|\x89PNG|GIF8|RIFF|BM|II\*|MM\0\*|.{4}ftyp", re.DOTALL
)


class PayloadError(ValueError):
    """Why a payload cannot be had; its message is a reason."""


def payload_of(record: WarcRecord, limit: int) -> bytes:
    """What the server meant to send, at most `limit` + 1 bytes of it: more than `limit` is too
    much. Raises `PayloadError` for what cannot be unwrapped; of a record that its crawler cut,
    what is there is taken."""
    data = record.payload
    transfer = record.header("transfer-encoding").lower()
    if "chunked" in transfer:
        data = _without_chunks(data, record.cut or record.more)
    names = [*record.header("content-encoding").split(","), *transfer.split(",")]
    names = [name.strip().lower() for name in names]
    packed = [name for name in names if name not in ("", "identity", "chunked", "none", "utf-8")]
    if len(packed) > _MOST_ENCODINGS:
        raise PayloadError(BROKEN_PAYLOAD)
    for name in reversed(packed):
        if _PLAIN.match(data):
            break
        data = _unpacked(data, name, limit, record.cut or record.more)
    return data[: limit + 1]


def _without_chunks(data: bytes, cut: bool) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        head = _CHUNK.match(data, at)
        if head is None and not at:
            # Crawlers join chunks and keep the header.
            return data
        if head is None:
            break
        size = int(head[1], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(data[head.end() : head.end() + size])
        if head.end() + size > len(data):
            break
        at = head.end() + size
        at += 2 if data[at : at + 2] == b"\r\n" else data[at : at + 1] == b"\n"
    if not cut and at < len(data):
        raise PayloadError(BROKEN_PAYLOAD)
    return b"".join(pieces)


def _unpacked(data: bytes, name: str, limit: int, cut: bool) -> bytes:
    if not data:
        return b""
    if name in ("gzip", "x-gzip"):
        # Servers append to what they packed; that is passed over.
        return _inflated(data, 47, limit, cut)
    if name == "deflate":
        try:
            return _inflated(data, 15, limit, cut)
        except PayloadError:
            return _inflated(data, -15, limit, cut)
    if name == "br":
        return _read(lambda: BrotliReader(io.BytesIO(data)), limit, cut)
    if name == "zstd":
        return _read(lambda: pa.CompressedInputStream(pa.BufferReader(data), "zstd"), limit, cut)
    raise PayloadError(BROKEN_PAYLOAD)


def _inflated(data: bytes, window: int, limit: int, cut: bool) -> bytes:
    member = zlib.decompressobj(window)
    try:
        found = member.decompress(data, limit + 1)
    except zlib.error as error:
        raise PayloadError(BROKEN_PAYLOAD) from error
    if not member.eof and len(found) <= limit and not cut:
        raise PayloadError(BROKEN_PAYLOAD)
    return found


def _read(opened: Callable[[], Any], limit: int, cut: bool) -> bytes:
    """As much as is wanted of a packed stream."""
    pieces: list[bytes] = []
    left = limit + 1
    try:
        file = opened()
        while left > 0 and (piece := file.read(min(left, 2**16))):
            pieces.append(piece)
            left -= len(piece)
    except OSError as error:
        if not cut:
            raise PayloadError(BROKEN_PAYLOAD) from error
    return b"".join(pieces)
