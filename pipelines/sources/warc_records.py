"""The records of a crawl archive (WARC, ISO 28500), each with its place; damage is one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from fastwarc.warc import ArchiveIterator

from gristmill.errors import SourceError
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.sources.reasons import BROKEN_RECORD, TRUNCATED_RECORD
from gristmill.pipelines.sources.warc_stream import WarcStream, open_stream

_LONGEST_HEADER = 2**20
_DAMAGE = "damage"


@dataclass(frozen=True, kw_only=True)
class WarcRecord:
    """A record as it lies in the archive."""

    # Its number among the records that were read.
    number: int = 0
    # Offset and bytes in the file of what can be read by itself: the record, packed or not.
    place: tuple[int, int] | None = None
    # response, resource, revisit, request, metadata, warcinfo, conversion, ...
    kind: str = ""
    uri: str = ""
    # As the archive spells it: 2024-01-31T23:59:59Z.
    date: str = ""
    # Of the answer, where it is one of HTTP.
    status: int | None = None
    headers: Sequence[tuple[str, str]] = ()
    # Of what was received, without parameters, and what the crawler took it for.
    content_type: str = ""
    charset: str | None = None
    identified: str = ""
    # The record whose content it repeats.
    refers_to: str = ""
    # Whether the crawler left off (`WARC-Truncated`).
    cut: bool = False
    # As it was transferred, if it was wanted, and whether there is more of it.
    payload: bytes = b""
    more: bool = False
    # Why it cannot be used.
    problem: str = ""

    @property
    def is_damage(self) -> bool:
        """Whether it stands for bytes in which no record could be found."""
        return self.kind == _DAMAGE

    def header(self, name: str) -> str:
        """The first HTTP header of that name, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")


# Most bytes of a record's payload that are wanted; 0: none.
Wanted = Callable[[WarcRecord], int]


def read_records(url: str, wanted: Wanted) -> Iterator[WarcRecord]:
    """Every record of a file, and one of `is_damage` for each stretch that is none; reading goes on
    at the next record that can be found. Memory is bounded by what is wanted of one record."""
    with open_url(url) as file:
        start: int | None = 0
        number = 0
        while start is not None:
            reading = _Reading(open_stream(file, start), file, start, number, wanted)
            yield from reading
            number, start = reading.number, reading.go_on_at


def first_records(url: str, count: int) -> list[WarcRecord]:
    """The first records of a file. Raises `SourceError` if it begins with none."""
    found: list[WarcRecord] = []
    for record in read_records(url, lambda record: 0):
        if record.is_damage and not found:
            break
        found.append(record)
        if len(found) == count:
            break
    if not found:
        raise SourceError(f"{url} does not begin with a record of a crawl archive (WARC)")
    return found


def parse_record(data: bytes, limit: int) -> WarcRecord | None:
    """The first record in bytes that were read by its place; None if they hold none."""
    import io

    file = io.BytesIO(data)
    reading = _Reading(open_stream(file, 0), file, 0, 0, lambda record: limit)
    return next((record for record in reading if not record.is_damage), None)


class _Reading:
    """Records from one place of a file to the next damage, each held until it is known where the
    next begins: one with a wrong length is found by what follows it."""

    def __init__(
        self, stream: WarcStream, file: IO[bytes], start: int, number: int, wanted: Wanted
    ) -> None:
        self.stream, self.number = stream, number
        self.go_on_at: int | None = None
        self._file, self._start, self._wanted = file, start, wanted
        self._records = _iterate(stream)

    def __iter__(self) -> Iterator[WarcRecord]:
        held: WarcRecord | None = None
        at, size = 0, 0
        while True:
            try:
                found = next(self._records, None)
            except OSError as error:
                if not _is_of_content(error):
                    raise
                yield from self._after(held, at, size)
                return
            if found is None:
                break
            if held is not None:
                yield replace(held, place=self.stream.place(at, found.stream_pos))
            at, size = found.stream_pos, found.content_length
            held = self._take(found)
        if self.stream.problem:
            yield from self._after(held, at, size)
        elif held is not None:
            if not size and self.stream.tail != b"\r\n\r\n":
                # The file ends within its header.
                held = replace(held, problem=TRUNCATED_RECORD)
            yield replace(held, place=self.stream.place(at, None))
            member = self.stream.member(at)
            if held.problem and member is not None:
                # Its length may be wrong: then others lie within it.
                self.go_on_at = self.stream.next_start(member[0])

    def _take(self, found: Any) -> WarcRecord:
        """A record with what is wanted of its payload; the rest is passed over."""
        headers = found.headers
        self.number += 1
        record = WarcRecord(
            number=self.number - 1,
            kind=(headers.get("WARC-Type") or "").lower(),
            # Some writers set it in brackets.
            uri=(headers.get("WARC-Target-URI") or "").strip().strip("<>"),
            date=headers.get("WARC-Date") or "",
            content_type=_media_type(headers.get("Content-Type")),
            identified=_media_type(headers.get("WARC-Identified-Payload-Type")),
            refers_to=(headers.get("WARC-Refers-To-Target-URI") or "").strip().strip("<>"),
            cut="WARC-Truncated" in headers,
        )
        try:
            if found.is_http:
                found.parse_http()
            if (http := found.http_headers) is not None:
                record = replace(
                    record,
                    status=http.status_code,
                    headers=tuple(http.items()),
                    content_type=_media_type(found.http_content_type),
                    charset=found.http_charset,
                )
            left, limit = found.content_length, self._wanted(record)
            data = found.reader.read(limit) if limit else b""
            passed = found.consume()
        except OSError as error:
            if not _is_of_content(error):
                raise
            return replace(record, problem=BROKEN_RECORD)
        if len(data) + passed < left:
            return replace(record, problem=TRUNCATED_RECORD)
        return replace(record, payload=data, more=passed > 0) if limit else record

    def _after(self, held: WarcRecord | None, at: int, size: int) -> Iterator[WarcRecord]:
        """What is handed out where the records end before the file does."""
        stream = self.stream
        if stream.problem:
            # Of unpacking: it is that member's, and what it was unpacked to is not sure.
            if held is not None and at >= stream.problem_from:
                yield replace(held, problem=held.problem or stream.problem)
            else:
                if held is not None:
                    yield replace(held, place=stream.place(at, stream.problem_from))
                yield self._damage(stream.problem)
            self.go_on_at = stream.next_start(max(stream.problem_at, self._start))
            return
        member = stream.member(at)
        if held is None:
            yield self._damage(BROKEN_RECORD)
            self.go_on_at = stream.next_start(self._start)
        elif member is not None and member[1] and _is_whole(self._file, member[0]):
            self.go_on_at = stream.next_start(stream.behind(at, size))
            there = None if self.go_on_at is None else (member[0], self.go_on_at - member[0])
            yield replace(held, place=there)
            yield self._damage(BROKEN_RECORD)
        else:
            # Its length is wrong, or nothing can tell that it is not.
            yield replace(held, problem=held.problem or BROKEN_RECORD)
            self.go_on_at = None if member is None else stream.next_start(member[0])

    def _damage(self, problem: str) -> WarcRecord:
        self.number += 1
        return WarcRecord(number=self.number - 1, kind=_DAMAGE, problem=problem)


def _is_whole(file: IO[bytes], offset: int) -> bool:
    """Whether the record at an offset has the digest that it names."""
    try:
        return bool(next(_iterate(open_stream(file, offset))).verify_block_digest())
    except OSError as error:
        if not _is_of_content(error):
            raise
        return False


def _iterate(stream: WarcStream) -> Iterator[Any]:
    return ArchiveIterator(
        cast("Any", stream), parse_http=False, max_header_len=_LONGEST_HEADER, stream_detect=False
    )


def _is_of_content(error: OSError) -> bool:
    """Whether fastwarc says it of bytes; what a storage says has a number, or a kind of its own."""
    return type(error) is OSError and error.errno is None


def _media_type(value: str | None) -> str:
    return (value or "").partition(";")[0].strip().lower()
