"""A file to write that is digested on the way."""

from __future__ import annotations

from typing import IO, Any, Protocol


class Digest(Protocol):
    """What hashlib and xxhash give."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """What they come to."""


class DigestWriter:
    """A file to write, in order only, that keeps the digest and the size of what went through."""

    closed = False

    def __init__(self, file: IO[bytes], digest: Digest) -> None:
        self._file, self.digest, self.size = file, digest, 0

    def write(self, data: Any) -> int:
        """Write and digest."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def flush(self) -> None:
        """Flush the file beneath."""
        self._file.flush()

    def close(self) -> None:
        """Closed by whoever opened the file."""

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Never."""
        return False
