"""The bytes of a crawl archive, unpacked as they are read, and where each member of them begins."""

from __future__ import annotations

import zlib
from collections import deque
from typing import IO, cast

from fastwarc.stream_io import Lz4Reader, ZstdReader

from gristmill.pipelines.sources.reasons import BROKEN_RECORD, TRUNCATED_RECORD

GZIP, ZSTD, LZ4 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
# With a dictionary of its own before the first record.
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
# How a record begins.
_START = b"WARC/"
_GZIP_START = GZIP + b"\x08"
_BLOCK = 2**16
# Packed bytes that are unpacked at once: few, for what is left over of them is copied.
_PACKED = 2**14


class WarcStream:
    """What an archive is read from: unpacked bytes, in turn."""

    def __init__(self) -> None:
        # Why the bytes end where they do, the offset in the file of the member in which that is,
        # and its position unpacked.
        self.problem, self.problem_at, self.problem_from = "", 0, 0
        # Bytes handed out, and the last of them.
        self.handed_out, self.tail = 0, b""

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; none at the end, or where a `problem` is."""
        data = self.unpack(size if size > 0 else _BLOCK)
        self.handed_out += len(data)
        self.tail = (self.tail + data)[-4:] if data else self.tail
        return data

    def tell(self) -> int:
        """Bytes handed out; fastwarc asks for it."""
        return self.handed_out

    def unpack(self, size: int) -> bytes:
        """The next bytes."""
        raise NotImplementedError

    def place(self, start: int, end: int | None) -> tuple[int, int] | None:
        """Offset and bytes in the file of what lies between two positions, if it can be read by
        itself; `end` None: to the end."""
        return None

    def member(self, position: int) -> tuple[int, bool] | None:
        """Offset in the file of what holds a position and is packed by itself, and whether it
        begins there; None if there is no such thing."""
        return None

    def behind(self, position: int, size: int) -> int:
        """Offset in the file from which on the end of a record at a position may lie, of which
        `size` bytes are known."""
        return 0

    def next_start(self, offset: int) -> int | None:
        """Offset in the file of the next record that begins after `offset`, if it can be found."""
        return None


def open_stream(file: IO[bytes], start: int) -> WarcStream:
    """An archive from `start` on, where a record begins."""
    file.seek(0)
    head = file.read(4)
    file.seek(start)
    if head.startswith(GZIP):
        return _Gzip(file, start)
    if head in (ZSTD, ZSTD_DICTIONARY):
        return _Packed(cast("IO[bytes]", ZstdReader(file)))
    if head == LZ4:
        return _Packed(cast("IO[bytes]", Lz4Reader(file)))
    return _Plain(file, start)


class _Plain(WarcStream):
    """An archive that is not packed."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        super().__init__()
        self._file, self._start = file, start

    def unpack(self, size: int) -> bytes:
        return self._file.read(size)

    def place(self, start: int, end: int | None) -> tuple[int, int] | None:
        return self._start + start, (self.handed_out if end is None else end) - start

    def member(self, position: int) -> tuple[int, bool] | None:
        return self._start + position, True

    def behind(self, position: int, size: int) -> int:
        # Its payload may hold what looks like a record.
        return self._start + position + size

    def next_start(self, offset: int) -> int | None:
        mark = b"\n" + _START
        found = _find(self._file, mark, offset)
        return None if found is None else found + 1


class _Packed(WarcStream):
    """An archive packed by Zstandard or LZ4; it is read from its beginning only."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def unpack(self, size: int) -> bytes:
        try:
            return b"" if self.problem else self._file.read(size)
        except OSError as error:
            if error.errno is not None or type(error) is not OSError:
                raise
            self.problem = BROKEN_RECORD
            self.problem_from = self.handed_out
            return b""


class _Gzip(WarcStream):
    """An archive of gzip members, mostly one a record: what begins one can be read by itself."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        super().__init__()
        self._file, self._packed = file, b""
        # Offset in the file of the end of `_packed`, and bytes unpacked.
        self._at, self._unpacked = start, 0
        self._member = zlib.decompressobj(31)
        # Position unpacked, and offset, of each member that may still be asked for.
        self._starts: deque[tuple[int, int]] = deque([(0, start)])

    def unpack(self, size: int) -> bytes:
        while not self.problem:
            if not self._packed:
                self._packed = self._file.read(_PACKED)
                self._at += len(self._packed)
            if not self._packed:
                # At its end if no member is begun.
                if self._starts[-1][1] < self._at:
                    self._end(TRUNCATED_RECORD)
                return b""
            try:
                data = self._member.decompress(self._packed, size)
            except zlib.error:
                self._end(BROKEN_RECORD)
                return b""
            self._packed = self._member.unconsumed_tail
            self._unpacked += len(data)
            if self._member.eof:
                self._packed = self._member.unused_data
                self._skip_padding()
                self._starts.append((self._unpacked, self._at - len(self._packed)))
                self._member = zlib.decompressobj(31)
            if data:
                return data
        return b""

    def _skip_padding(self) -> None:
        """Zeros between members, which some writers fill blocks with."""
        while not self._packed.strip(b"\0"):
            self._packed = self._file.read(_PACKED)
            self._at += len(self._packed)
            if not self._packed:
                return
        self._packed = self._packed.lstrip(b"\0")

    def _end(self, problem: str) -> None:
        self.problem = problem
        self.problem_from, self.problem_at = self._starts[-1]

    def place(self, start: int, end: int | None) -> tuple[int, int] | None:
        member = self.member(start)
        if member is None or not member[1] or len(self._starts) < 2:
            return None
        behind, next_offset = self._starts[1]
        # A member of several records would be read again for each.
        alone = behind <= (self._unpacked if end is None else end)
        return (member[0], next_offset - member[0]) if alone else None

    def member(self, position: int) -> tuple[int, bool] | None:
        while len(self._starts) > 1 and self._starts[1][0] <= position:
            self._starts.popleft()
        start, offset = self._starts[0]
        return offset, start == position

    def behind(self, position: int, size: int) -> int:
        member = self.member(position)
        return member[0] if member else 0

    def next_start(self, offset: int) -> int | None:
        found = _find(self._file, _GZIP_START, offset)
        while found is not None:
            self._file.seek(found)
            try:
                start = zlib.decompressobj(31).decompress(self._file.read(_BLOCK), len(_START))
            except zlib.error:
                start = b""
            if start == _START:
                return found
            found = _find(self._file, _GZIP_START, found)
        return None


def _find(file: IO[bytes], mark: bytes, offset: int) -> int | None:
    """Offset of the next `mark` after `offset`."""
    file.seek(offset + 1)
    at, kept = offset + 1, b""
    while block := file.read(_BLOCK):
        data = kept + block
        if (found := data.find(mark)) >= 0:
            return at - len(kept) + found
        at += len(block)
        kept = data[-len(mark) + 1 :]
    return None
