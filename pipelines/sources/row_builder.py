"""Rows of a source from whatever its reader finds: names mapped, captions typed, uid made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    PENDING,
    ROW,
    make_image_id,
    make_uid,
    normalise_url,
)
from gristmill.pipelines.sources.conversations import first_answer
from gristmill.pipelines.sources.reasons import (
    LOCAL_PATH,
    NAME_NOT_UTF8,
    NO_URL,
    NOT_UTF8,
    STRETCHES_DIFFER,
    URL_NOT_TEXT,
)
from gristmill.pipelines.sources.stretches import (
    BadStretch,
    Stretch,
    seconds_of,
    stretches_of,
    zipped,
)
from gristmill.pipelines.sources.values import (
    digest_of,
    ending_of,
    listed,
    text_of,
    texts_of,
    to_json,
    whole,
)
from gristmill.pipelines.storage import Folder

if TYPE_CHECKING:
    from gristmill.pipelines.sources.listed_videos import FilesById

TABLE_ROWS = 5_000

_IMAGE_ENDINGS = (
    "avif bmp dds dib exr fli flc gif heic heif ico j2k jfif jp2 jpeg jpg jpx msp pbm pcx pgm png "
    "pnm ppm psd qoi sgi spider svg tga tif tiff webp xbm xpm"
)
_VIDEO_ENDINGS = (
    "264 265 3g2 3gp asf avi f4v flv gif h264 h265 hevc ivf m1v m2ts m2v m4v mkv mov mp4 mpeg mpg "
    "mts mxf ogv ts vob webm wmv"
)
# What the files of a source must end in to be taken for what they are to be.
ENDINGS = {
    "image": frozenset(_IMAGE_ENDINGS.split()),
    "video": frozenset(_VIDEO_ENDINGS.split()),
    "document": frozenset(("html", "htm", "xhtml")),
    "pair": frozenset[str](),
    "conversation": frozenset[str](),
    "text": frozenset[str](),
}


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """A row as a reader found it: what it is known by, where its bytes are, and what its source
    says of it, in whatever type it says so."""

    # As in `make_uid`.
    kind: str
    locator: str
    url: str | None = None
    pointer: str | None = None
    status: str = PENDING
    error: str | None = None
    sha256: str | None = None
    # A text, or a list of texts: a row each.
    caption: object = None
    # Pixels.
    width: object = None
    height: object = None
    licence: object = None
    # The stretch of a video that the row is about, in seconds or h:mm:ss; part of its uid. Or a
    # list of starts, and one of ends.
    start: object = None
    end: object = None
    # A list of such stretches, beside a list of as many captions or one for all: a row each.
    stretches: object = None
    # Whether the source has a place for starts, so that one without is a hole.
    has_start: bool = False
    # Whatever else is said.
    meta: Mapping[str, object] = field(default_factory=dict)

    def saying(self, facts: Mapping[str, object], meta: Mapping[str, object]) -> SourceRow:
        """The same row with what a source says of it, under the names of `USUAL_NAMES`; without a
        caption, the first answer of a conversation is one."""
        caption = facts.get("caption")
        return replace(
            self,
            caption=first_answer(meta) if caption is None else caption,
            width=facts.get("width"),
            height=facts.get("height"),
            licence=facts.get("licence"),
            start=facts.get("start"),
            end=facts.get("end"),
            stretches=facts.get("stretches"),
            has_start="start" in facts,
            meta=meta,
        )

    def stretched(self) -> list[SourceRow]:
        """A row for each stretch that this one names; itself if it names at most one, by two times,
        or if what it names cannot be read, which is its error then."""
        if self.start is None and self.end is None and self.stretches is None:
            return [self]
        try:
            listing = zipped(self.start, self.end)
            found = (listing, True) if listing else stretches_of(self.stretches)
        except BadStretch as error:
            place = f"{self.locator}#t={digest_of([self.start, self.end, self.stretches])}"
            return [replace(self._failed(str(error)), locator=place)]
        if found is None:
            # A column of such a name that says something else.
            more = {} if self.stretches is None else {"stretches": self.stretches}
            return [replace(self, stretches=None, meta={**self.meta, **more})]
        stretches, is_list = found
        captions = listed(self.caption) if is_list else None
        if captions is None:
            captions = [self.caption] * len(stretches)
        if len(captions) != len(stretches):
            return [replace(self._failed(STRETCHES_DIFFER), caption=captions)]
        return [self._about(one, caption) for one, caption in zip(stretches, captions, strict=True)]

    def _about(self, stretch: Stretch, caption: object) -> SourceRow:
        """The row of one stretch."""
        return replace(
            self,
            start=stretch.start,
            end=stretch.end,
            stretches=None,
            has_start=True,
            caption=stretch.caption if stretch.has_caption else caption,
            meta={**self.meta, **stretch.facts},
        )

    def _failed(self, reason: str) -> SourceRow:
        """The same, which cannot be done; what was wrong before counts."""
        return replace(
            self,
            start=None,
            end=None,
            stretches=None,
            pointer=None,
            status=FAILED_TO_DOWNLOAD if self.error is None else self.status,
            error=self.error or reason,
        )

    def timed(self) -> SourceRow:
        """The same with its stretch in seconds, also as `start` and `end` of what is said of it; or
        why it has none."""
        if self.start is None and self.end is None:
            return self
        try:
            times = seconds_of(self.start, self.end, from_start=not self.has_start)
        except BadStretch as error:
            place = f"{self.locator}#t={digest_of([self.start, self.end])}"
            return replace(self._failed(str(error)), locator=place)
        if times is None:
            return replace(self, start=None, end=None)
        first, last = times
        return replace(self, start=first, end=last, meta={**self.meta, "start": first, "end": last})


def url_row(url: object) -> SourceRow:
    """A row that is to be downloaded; what cannot be an address comes in failed. Beyond that the
    download names what is wrong."""
    error = None
    try:
        text = text_of(url) or ""
    except UnicodeDecodeError:
        text, error = "", NOT_UTF8
    if not text.strip() and error is None:
        error = NO_URL if not isinstance(url, (list, tuple, Mapping, bool)) else URL_NOT_TEXT
    elif _is_path(text.strip()):
        error = LOCAL_PATH
    status = FAILED_TO_DOWNLOAD if error else PENDING
    locator = normalise_url(text)
    return SourceRow(kind="url", locator=locator, url=text, status=status, error=error)


def _is_path(text: str) -> bool:
    """Whether a text names a file of this machine rather than an address."""
    if "://" in text or text.startswith("//"):
        return False
    if re.match(r"[A-Za-z]:[\\/]|[\\/~]|\.{1,2}[\\/]", text):
        return True
    first = re.split(r"[\\/]", text)[0]
    known = any(ending_of(text) in endings for endings in ENDINGS.values())
    # example.com/a.jpg lacks its scheme; pictures/a.jpg is a file.
    return known and not any(c.isspace() for c in first) and ("." not in first or first == text)


class RowBuilder:
    """Collects rows of one kind (image, video, text) and hands them out as tables with the schema
    `ROW`."""

    def __init__(
        self,
        source: str,
        kind: str = "image",
        files: Folder | None = None,
        by_id: FilesById | None = None,
        place: str = "",
    ) -> None:
        self.source, self.kind = source, kind
        # Where the files lie among the places of a source that has several: one name may be in
        # more than one of them.
        self.place = place
        # Below which lie the files that a table names; None: it can name none.
        self.files = files
        # Videos that somebody has fetched, by their ids; None: there are none.
        self.by_id = by_id
        self._columns: dict[str, list[object]] = {name: [] for name in ROW.names}
        self._count = 0

    def is_wanted(self, name: str) -> bool:
        """Whether a file counts as what the rows are of, by its ending."""
        return ending_of(name) in ENDINGS[self.kind]

    def add(self, row: SourceRow) -> None:
        """Add one row, or one for each of its stretches or captions."""
        if self.place and row.kind == "path":
            row = replace(row, locator=f"{self.place}/{row.locator}")
        for one in row.stretched():
            self._add_one(one.timed())

    def _add_one(self, row: SourceRow) -> None:
        meta = dict(row.meta)
        try:
            captions, other = texts_of(row.caption)
            licence, odd = texts_of(row.licence)
        except UnicodeDecodeError:
            captions, other, licence, odd = [], False, [], False
            row = replace(row, status=FAILED_TO_DECODE, error=row.error or NOT_UTF8)
        if other:
            # A mapping is no caption; it stays with what else is said.
            meta.setdefault("caption", row.caption)
        if odd:
            meta.setdefault("licence", row.licence)
        for name, size in (("width", row.width), ("height", row.height)):
            # NaN is nothing, too.
            if size not in (None, "") and size == size and whole(size) is None:
                meta.setdefault(name, size)
        if row.pointer is not None and not is_utf8_name(row.pointer):
            row = replace(
                row, pointer=None, status=FAILED_TO_DOWNLOAD, error=row.error or NAME_NOT_UTF8
            )
        several: list[str | None] = [*(captions if row.status == PENDING else captions[:1])]
        for text in several or [None]:
            self._add_caption(row, text, ", ".join(licence) or None, meta)

    def _add_caption(
        self, row: SourceRow, text: str | None, licence: str | None, meta: Mapping[str, object]
    ) -> None:
        place = row.locator
        if isinstance(row.start, float) and isinstance(row.end, float):
            place = f"{row.locator}#t={_spelt(row.start)},{_spelt(row.end)}"
        values: dict[str, object] = {
            "uid": make_uid(row.kind, place, text),
            "image_id": make_image_id(row.kind, row.locator),
            "parent_uid": None,
            "row": self._count,
            "source": self.source,
            "url": row.url,
            "pointer": row.pointer,
            "caption": text,
            "status": row.status,
            "error": row.error,
            "sha256": row.sha256,
            "width": None,
            "height": None,
            "original_width": whole(row.width),
            "original_height": whole(row.height),
            "licence": licence,
            "meta": to_json(meta),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._count += 1

    def take(self, *, all_rows: bool = False) -> Iterator[pa.Table]:
        """A table if enough rows are waiting (or any, with `all_rows`)."""
        waiting = len(self._columns["uid"])
        if waiting >= TABLE_ROWS or (all_rows and waiting):
            columns, self._columns = self._columns, {name: [] for name in ROW.names}
            yield pa.table(columns, schema=ROW)


def _spelt(time: float) -> str:
    """Seconds, as short as they can be told from others."""
    short = f"{time:g}"
    return short if float(short) == time else repr(time)


def is_utf8_name(text: str) -> bool:
    """Whether a name can be written down; names of files may hold any bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
