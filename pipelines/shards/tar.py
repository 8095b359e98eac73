"""Tar files that are the same bytes for the same members, and know where each member lies.

Python's tarfile spends some 60 us on the header of a member, and as much to read it; a shard has
thirty thousand. Headers here are its headers, byte for byte.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Protocol

from gristmill.pipelines.digest_writer import DigestWriter

_BLOCK = 512
_RECORD = 10_240
_ZEROS = bytes(_RECORD)
# Members up to this size are written at once, with what surrounds them.
_SMALL = 64 * 1024
_NAME, _SIZE, _SUM, _MAGIC = slice(0, 100), slice(124, 136), slice(148, 156), slice(257, 262)
_TYPE, _PREFIX = 156, slice(345, 500)
_LARGEST = 8**11


class Readable(Protocol):
    """What members are read from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end."""


class TarWriter:
    """Writes members with time 0, owner 0 and mode 644, in the order given (POSIX ustar)."""

    def __init__(self, file: IO[bytes] | DigestWriter) -> None:
        self._file = file
        self._at = 0

    def add(self, name: str, data: bytes) -> int:
        """Add a member; returns the offset of its bytes."""
        head, pad = header(name, len(data)), _ZEROS[: -len(data) % _BLOCK]
        offset = self._at + len(head)
        if len(data) <= _SMALL:
            self._write(b"".join((head, data, pad)))
        else:
            self._write(head)
            self._write(data)
            self._write(pad)
        return offset

    def close(self) -> None:
        """Write the end mark."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._at % _RECORD))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)


def header(name: str, size: int) -> bytes:
    """The header of a member, as `tarfile` makes it."""
    if len(name) > _NAME.stop or not name.isascii() or size >= _LARGEST:
        return _by_tarfile(name, size)
    head, coded = bytearray(_EMPTY), name.encode()
    head[: len(coded)] = coded
    digits = b"%011o" % size
    head[_SIZE.start : _SIZE.start + len(digits)] = digits
    total = _EMPTY_SUM + sum(coded) + sum(digits)
    head[_SUM] = b"%06o\0 " % total
    return bytes(head)


def _by_tarfile(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT)


def _empty() -> bytearray:
    """A header without name and size, and with spaces for its sum, as the sum is made."""
    head = bytearray(_by_tarfile("", 0))
    head[_SIZE.start : _SIZE.stop - 1] = bytes(_SIZE.stop - 1 - _SIZE.start)
    head[_SUM] = b" " * 8
    return head


_EMPTY = bytes(_empty())
_EMPTY_SUM = sum(_EMPTY)


def read_members(file: Readable) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the members of a tar that `TarWriter` wrote, up to its end mark. Raises
    `tarfile.ReadError` for what it would not write, and for one that is cut."""
    while (head := file.read(_BLOCK)) != _ZEROS[:_BLOCK]:
        if len(head) < _BLOCK or head[_MAGIC] != b"ustar" or head[_TYPE : _TYPE + 1] != b"0":
            raise tarfile.ReadError("no header of a file where one should be")
        name = head[_NAME].rstrip(b"\0").decode(errors="replace")
        if prefix := head[_PREFIX].rstrip(b"\0"):
            name = f"{prefix.decode(errors='replace')}/{name}"
        digits = head[_SIZE].rstrip(b"\0 ")
        # Python takes signs and underscores for parts of a number.
        if not digits.isdigit() or set(digits) & set(b"89"):
            raise tarfile.ReadError(f"{name} has no size")
        size = int(digits, 8)
        whole = size + -size % _BLOCK
        data = file.read(whole)
        if len(data) < whole:
            raise tarfile.ReadError(f"{name} is cut")
        yield name, data[:size]
