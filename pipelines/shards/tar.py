"""Tar files that are the same bytes for the same members, and know where each member lies."""

from __future__ import annotations

import tarfile
from typing import IO

from gristmill.pipelines.digest_writer import DigestWriter

_BLOCK = 512
_RECORD = 10_240


class TarWriter:
    """Writes members with time 0, owner 0 and mode 644, in the order given (POSIX ustar)."""

    def __init__(self, file: IO[bytes] | DigestWriter) -> None:
        self._file = file
        self._at = 0

    def add(self, name: str, data: bytes) -> int:
        """Add a member; returns the offset of its bytes."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        header = info.tobuf(tarfile.USTAR_FORMAT)
        self._write(header)
        offset = self._at
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def close(self) -> None:
        """Write the end mark."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._at % _RECORD))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)
