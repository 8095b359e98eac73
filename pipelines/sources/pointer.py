"""Where the bytes of a row lie when they have no URL: self-contained strings, read in few passes.

file:<url>                          a whole file
tar:<url>#<offset>+<size>           a member of a plain tar
tarz:<url>#<n>                      the n-th member of a compressed tar
parquet:<url>#<group>/<row>/<path>  a cell of a Parquet file; path has a dot for a struct's field,
                                    and [n] for the n-th of a list
data:<type>;base64,<bytes>          the bytes themselves, as RFC 2397 spells them
warc:<url>#<offset>+<size>          what was received, in a record of a crawl archive
warcz:<url>#<n>                     the same in the n-th record of one that is read in turn only
"""

from __future__ import annotations

import base64
import errno
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.errors import StorageError
from gristmill.pipelines.locate import exact, locate, open_url, refuse, unpack
from gristmill.pipelines.patience import (
    WrongBytesError,
    heard,
    is_of_content,
    is_of_storage,
    may_heal,
    patience_s,
    patiently,
    waits,
)
from gristmill.pipelines.sources.warc_records import WarcRecord, parse_record, read_records
from gristmill.pipelines.sources.web_payload import PayloadError, payload_of

# Headers of a record, and what packing may add.
_RECORD_HEAD = 2**21
READ_ERROR, NOT_FOUND, UNREADABLE = "read error", "file not found", "file not readable"
TRUNCATED = "truncated file"
BROKEN_DATA = "broken data url"
# Kinds that are read once for all pointers into a file.
_GROUPED = ("tarz", "warcz", "parquet")
# Another day the storage may say otherwise.
RETRYABLE = frozenset({READ_ERROR, NOT_FOUND, UNREADABLE, TRUNCATED})
# What a file system says of names that none of its files can have.
_NO_NAME = frozenset((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR))
# What comes of a file that is not what it was when it was listed.
_TORN = (
    EOFError, IndexError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, gzip.BadGzipFile, pa.ArrowException,
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


def warc_pointer(url: str, offset: int, size: int) -> str:
    """What a record of a crawl archive holds, by where the record lies."""
    return f"warc:{url}#{offset}+{size}"


def packed_warc_pointer(url: str, record: int) -> str:
    """The same of the `record`-th record of a file that is read from its beginning only."""
    return f"warcz:{url}#{record}"


def parquet_pointer(url: str, group: int, row: int, path: str) -> str:
    """A cell of a Parquet file."""
    return f"parquet:{url}#{group}/{row}/{path}"


def read_pointers(
    pointers: Sequence[str], max_bytes: int
) -> Iterator[tuple[int, bytes | PointerError]]:
    """Yield (index, bytes) or (index, why not) for each pointer, in the order that is cheap to
    read.

    Compressed tars, archives that are read in turn and Parquet row groups are read once for all
    pointers into them. What cannot be
    read is tried again with back-off, all of it together, after the rest. Raises `StorageError`
    where the storage does not answer at all, which is no verdict on a row.
    """
    waiting: Sequence[int] = range(len(pointers))
    again = waits()
    while True:
        failed: dict[int, Exception] = {}
        for i, found in _read_all(pointers, waiting, max_bytes):
            if isinstance(found, (bytes, PointerError)):
                yield i, found
            else:
                failed[i] = found
        if not failed or not again(_most_hopeful(failed.values())):
            break
        waiting = sorted(failed)
    for i, error in sorted(failed.items()):
        yield i, PointerError(_reason(error, pointers[i]))


def _read_all(
    pointers: Sequence[str], wanted: Sequence[int], max_bytes: int
) -> Iterator[tuple[int, bytes | Exception]]:
    """Each pointer once: its bytes, a `PointerError` that is final, or what may be another time."""
    plain: list[int] = []
    grouped: dict[tuple[str, str], list[int]] = {}
    for i in wanted:
        kind, _, rest = pointers[i].partition(":")
        if kind in _GROUPED:
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
        reader: Iterator[tuple[int, bytes | Exception]]
        if kind == "parquet":
            reader = _read_cells(url, int(group), places, max_bytes)
        else:
            reader = (_read_members if kind == "tarz" else _read_records)(url, places, max_bytes)
        done: set[int] = set()
        try:
            for i, data in reader:
                done.add(i)
                yield i, data
            # The file has fewer members, or rows, than it had when it was listed.
            missing: Exception = WrongBytesError("it ends early")
        except Exception as error:
            if not _is_torn(error) and not is_of_storage(error):
                raise
            missing = WrongBytesError(str(error)) if _is_torn(error) else error
        yield from ((i, missing) for i in indices if i not in done)


def _split(pointer: str) -> tuple[str, str]:
    """URL and place; either may hold a `#` of its own, and the last that fits counts."""
    found = re.fullmatch(r"(.*)#(\d+(?:/\d+/.*)?)", pointer, re.DOTALL)
    return (found[1], found[2]) if found else (pointer, "")


def _is_torn(error: Exception) -> bool:
    """Whether unpackers or Arrow say it of bytes that are not theirs; what a storage says has a
    number."""
    if isinstance(error, (WrongBytesError, *_TORN)):
        return True
    return isinstance(error, OSError) and is_of_content(error)


def _most_hopeful(errors: Iterable[Exception]) -> Exception:
    """What decides how long is waited: a store in trouble is worth more patience than bytes that
    are not there."""
    return next((error for error in errors if may_heal(error)), WrongBytesError("not there"))


def _reason(error: Exception, pointer: str) -> str:
    """A reason that can be counted, if the storage answers; `StorageError` if not."""
    refuse(pointer.partition(":")[2], error)
    if isinstance(error, FileNotFoundError):
        return NOT_FOUND
    if _is_torn(error):
        return TRUNCATED
    if isinstance(error, PermissionError):
        return UNREADABLE
    if isinstance(error, IsADirectoryError):
        return "not a file"
    kind, _, url = pointer.partition(":")
    if kind != "file":
        url = _split(url)[0] if kind in _GROUPED else url.rpartition("#")[0]
    try:
        fs, path = locate(url)
        patiently(lambda: fs.info(path))
    except FileNotFoundError:
        return NOT_FOUND
    except Exception as silent:
        if not is_of_storage(silent):
            raise
        raise StorageError(
            f"the source cannot be reached: {type(silent).__name__}: {silent} ({url}); everything "
            "committed stays: run the same command again when it is back"
        ) from silent
    return READ_ERROR


def _guarded(pointer: str, max_bytes: int) -> bytes | Exception:
    """The bytes of a file or of a member of a plain tar, all of them."""
    kind, _, rest = pointer.partition(":")
    limit = 2 * patience_s() + max_bytes / 2**20
    try:
        if kind == "file":
            return heard(lambda: _read_file(rest, max_bytes), limit)
        if kind == "data":
            return _read_data(rest, max_bytes)
        if kind in ("tar", "warc"):
            url, _, place = rest.rpartition("#")
            offset, size = (int(number) for number in place.split("+"))
            if size > max_bytes + (_RECORD_HEAD if kind == "warc" else 0):
                return PointerError("too large")
            fs, path = locate(url)
            end = offset + size
            data = heard(lambda: fs.cat_file(path, start=offset, end=end, **exact(fs)), limit)
            if len(data) != size:
                return WrongBytesError("it ends early")
            if kind == "tar":
                return bytes(data)
            record = parse_record(bytes(data), max_bytes + 1)
            return WrongBytesError("no record") if record is None else _received(record, max_bytes)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_NAME:
            return PointerError(NOT_FOUND)
        if not is_of_storage(error):
            raise
        return error
    return PointerError("unknown pointer")


def _read_data(rest: str, max_bytes: int) -> bytes | Exception:
    """The bytes of a data URL, whose scheme is taken away."""
    head, comma, body = rest.partition(",")
    try:
        data = unquote_to_bytes(body)
        if head.rstrip().lower().endswith(";base64"):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except ValueError:
        return PointerError(BROKEN_DATA)
    if not comma:
        return PointerError(BROKEN_DATA)
    return PointerError("too large") if len(data) > max_bytes else data


def _read_file(url: str, max_bytes: int) -> bytes | Exception:
    fs, path = locate(url)
    facts = fs.info(path)
    with fs.open(path, "rb") as file:
        data = bytes(file.read(max_bytes + 1))
    if len(data) > max_bytes:
        return PointerError("too large")
    # A server need not say how long a file is.
    whole = facts.get("size")
    return data if whole is None or len(data) == whole else WrongBytesError("it ends early")


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


def _read_records(
    url: str, places: dict[int, str], max_bytes: int
) -> Iterator[tuple[int, bytes | Exception]]:
    wanted: dict[int, list[int]] = {}
    for i, place in places.items():
        wanted.setdefault(int(place), []).append(i)
    for record in read_records(url, lambda r: max_bytes + 1 if r.number in wanted else 0):
        for i in wanted.pop(record.number, ()):
            yield i, _received(record, max_bytes)
        if not wanted:
            return


def _received(record: WarcRecord, max_bytes: int) -> bytes | Exception:
    if record.problem:
        # It was whole when it was listed.
        return WrongBytesError(record.problem)
    try:
        data = payload_of(record, max_bytes)
    except PayloadError as error:
        return PointerError(str(error))
    return PointerError("too large") if record.more or len(data) > max_bytes else data


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
            name = _parts_of(path)[0]
            for batch in file.iter_batches(64, row_groups=[group], columns=[name]):
                column = _pictures(batch.column(0), path)
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


def _parts_of(path: str) -> tuple[str, int | None, str]:
    """Column, number in a list, and field of a struct, of the path to a cell."""
    found = re.fullmatch(r"(.*)\[(\d+)\](?:\.(\w+))?", path, re.DOTALL)
    return (found[1], int(found[2]), found[3] or "") if found else (path, None, "")


def _pictures(column: pa.Array, path: str) -> pa.Array:
    """The bytes that a path leads to in each row of its column; null where there are none."""
    _, number, name = _parts_of(path)
    if number is not None:
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        if not len(column) or pc.min(lengths).as_py() <= number:
            # Of lists that are too short nothing can be taken at once.
            column = pa.array(
                [
                    cell[number] if cell and len(cell) > number else None
                    for cell in column.to_pylist()
                ],
                column.type.value_type,
            )
        else:
            column = pc.list_element(column, number)
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, name or path.rpartition(".")[2])
    return column
