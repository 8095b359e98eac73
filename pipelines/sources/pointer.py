"""Where the bytes of a row lie when they have no URL: self-contained strings, read in few passes.

file:<url>                          a whole file
tar:<url>#<offset>+<size>           a member of a plain tar
tarz:<url>#<n>                      the n-th member of a compressed tar
parquet:<url>#<group>/<row>/<path>  a cell of a Parquet file; path has a dot for a struct's field
"""

from __future__ import annotations

import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.pipelines.locate import locate, open_url, unpack

# What comes of a file that is not there, or not what it was.
_UNREADABLE = (
    OSError, EOFError, IndexError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError,
    pa.ArrowException,
)  # fmt: skip


class PointerError(Exception):
    """Why the bytes cannot be had: a short text that can be counted."""


def file_pointer(url: str) -> str:
    """A whole file."""
    return f"file:{url}"


def tar_pointer(url: str, offset: int, size: int) -> str:
    """A member of a plain tar, by where its bytes lie."""
    return f"tar:{url}#{offset}+{size}"


def compressed_tar_pointer(url: str, member: int) -> str:
    """The `member`-th regular file of a compressed tar."""
    return f"tarz:{url}#{member}"


def parquet_pointer(url: str, group: int, row: int, path: str) -> str:
    """A cell of a Parquet file."""
    return f"parquet:{url}#{group}/{row}/{path}"


def read_pointers(
    pointers: Sequence[str], max_bytes: int
) -> Iterator[tuple[int, bytes | PointerError]]:
    """Yield (index, bytes) or (index, why not) for each pointer, in the order that is cheap to
    read.

    Compressed tars and Parquet row groups are read once for all pointers into them.
    """
    plain: list[int] = []
    grouped: dict[tuple[str, str], list[int]] = {}
    for i, pointer in enumerate(pointers):
        kind, _, rest = pointer.partition(":")
        if kind in ("tarz", "parquet"):
            url, place = _split(rest)
            group = place.partition("/")[0] if kind == "parquet" else ""
            grouped.setdefault((f"{kind}:{url}", group), []).append(i)
        else:
            plain.append(i)
    for i in plain:
        yield i, _guarded(pointers[i], max_bytes)
    for (start, group), indices in grouped.items():
        kind, _, url = start.partition(":")
        places = {i: _split(pointers[i])[1] for i in indices}
        reader = (
            _read_cells(url, int(group), places, max_bytes)
            if kind == "parquet"
            else _read_members(url, places, max_bytes)
        )
        done: set[int] = set()
        try:
            for i, data in reader:
                done.add(i)
                yield i, data
        except _UNREADABLE as error:
            reason = PointerError(_reason(error))
        else:
            # The file has fewer members, or rows, than it had when it was listed.
            reason = PointerError("truncated file")
        yield from ((i, reason) for i in indices if i not in done)


def _split(pointer: str) -> tuple[str, str]:
    """URL and place; either may hold a `#` of its own, and the last that fits counts."""
    found = re.fullmatch(r"(.*)#(\d+(?:/\d+/.*)?)", pointer, re.DOTALL)
    return (found[1], found[2]) if found else (pointer, "")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "file not readable"
    if isinstance(error, IsADirectoryError):
        return "not a file"
    # As unpackers and Arrow say it of bytes that are not theirs; the storage's have a number.
    of_content = type(error) in (OSError, gzip.BadGzipFile)
    damaged = not isinstance(error, OSError) or (of_content and error.errno is None)
    return "truncated file" if damaged else "read error"


def _guarded(pointer: str, max_bytes: int) -> bytes | PointerError:
    kind, _, rest = pointer.partition(":")
    try:
        if kind == "file":
            with open_url(rest) as file:
                data = bytes(file.read(max_bytes + 1))
            return PointerError("too large") if len(data) > max_bytes else data
        if kind == "tar":
            url, _, place = rest.rpartition("#")
            offset, size = (int(number) for number in place.split("+"))
            if size > max_bytes:
                return PointerError("too large")
            fs, path = locate(url)
            data = bytes(fs.cat_file(path, start=offset, end=offset + size))
            return data if len(data) == size else PointerError("truncated file")
    except OSError as error:
        return PointerError(_reason(error))
    return PointerError("unknown pointer")


def _read_members(
    url: str, places: dict[int, str], max_bytes: int
) -> Iterator[tuple[int, bytes | PointerError]]:
    wanted: dict[int, list[int]] = {}
    for i, place in places.items():
        wanted.setdefault(int(place), []).append(i)
    with open_url(url) as file, tarfile.open(fileobj=unpack(file) or file, mode="r|") as tar:
        for number, member in enumerate(m for m in tar if m.isfile()):
            if number not in wanted:
                continue
            found: bytes | PointerError
            if member.size > max_bytes:
                found = PointerError("too large")
            else:
                opened = tar.extractfile(member)
                found = opened.read() if opened else PointerError("not a file")
            for i in wanted[number]:
                yield i, found


def _read_cells(
    url: str, group: int, places: dict[int, str], max_bytes: int
) -> Iterator[tuple[int, bytes | PointerError]]:
    by_path: dict[str, dict[int, int]] = {}
    for i, place in places.items():
        _, row, path = place.split("/", 2)
        by_path.setdefault(path, {})[i] = int(row)
    with open_url(url) as opened:
        file = pq.ParquetFile(opened)
        for path, rows in by_path.items():
            start = 0
            order = sorted(rows.items(), key=lambda item: item[1])
            at = 0
            for batch in file.iter_batches(64, row_groups=[group], columns=[path]):
                column: pa.Array = batch.column(0)
                if pa.types.is_struct(column.type):
                    column = column.field(path.rpartition(".")[2])
                while at < len(order) and order[at][1] < start + len(batch):
                    i, position = order[at]
                    value = column[position - start].as_py()
                    at += 1
                    if value is None:
                        yield i, PointerError("no image")
                    elif len(value) > max_bytes:
                        yield i, PointerError("too large")
                    else:
                        yield i, bytes(value)
                start += len(batch)
