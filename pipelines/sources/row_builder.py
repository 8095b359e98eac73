"""Rows of a source from whatever its reader finds: names mapped, captions typed, uid made."""

from __future__ import annotations

import ast
import difflib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.schema import (
    FAILED_TO_DOWNLOAD,
    PENDING,
    ROW,
    make_image_id,
    make_uid,
    normalise_url,
)

TABLE_ROWS = 5_000

# Spellings of public datasets (LAION, CC12M, COYO, DataComp, SBU, Hugging Face), in order.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "img_url", "photo_image_url", "coco_url"),
    "caption": (
        "caption", "TEXT", "text", "txt", "top_caption", "alt_text", "captions", "title",
        "description", "prompt",
    ),
    "path": ("path", "file_name", "image_path", "filename"),
    "licence": ("licence", "license", "LICENSE"),
    "width": ("original_width", "width", "WIDTH"),
    "height": ("original_height", "height", "HEIGHT"),
}  # fmt: skip

# The same of videos (WebVid, InternVid, Panda, HD-VILA), with the stretch that a caption is about.
USUAL_VIDEO_NAMES: dict[str, tuple[str, ...]] = {
    **USUAL_NAMES,
    "url": ("url", "URL", "video_url", "contentUrl", "video", "link"),
    "caption": (*USUAL_NAMES["caption"], "name", "Caption"),
    "path": (*USUAL_NAMES["path"], "video_path"),
    "start": ("start", "start_s", "start_time", "start_sec", "Start_timestamp", "begin"),
    "end": ("end", "end_s", "end_time", "end_sec", "End_timestamp"),
    # A list of [start, end], beside a list of captions.
    "stretches": ("timestamp", "timestamps", "segments"),
}
_IMAGE_ENDINGS = (
    "avif bmp dds dib exr fli flc gif heic heif ico j2k jfif jp2 jpeg jpg jpx msp pbm pcx pgm png "
    "pnm ppm psd qoi sgi spider svg tga tif tiff webp xbm xpm"
)
_VIDEO_ENDINGS = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
# What the files of a source must end in to be taken for what they are to be.
ENDINGS = {
    "image": frozenset(_IMAGE_ENDINGS.split()),
    "video": frozenset(_VIDEO_ENDINGS.split()),
    "document": frozenset(("html", "htm", "xhtml")),
    "pair": frozenset[str](),
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
    # A text; of a list of captions the first is taken.
    caption: object = None
    # Pixels.
    width: object = None
    height: object = None
    licence: object = None
    # The stretch of a video that the row is about, in seconds or h:mm:ss; part of its uid.
    start: object = None
    end: object = None
    # A list of such stretches, beside a list of as many captions or one for all: a row each.
    stretches: object = None
    # Whatever else is said.
    meta: Mapping[str, object] = field(default_factory=dict)

    def saying(self, facts: Mapping[str, object], meta: Mapping[str, object]) -> SourceRow:
        """The same row with what a source says of it, under the names of `USUAL_NAMES`."""
        return replace(
            self,
            caption=facts.get("caption"),
            width=facts.get("width"),
            height=facts.get("height"),
            licence=facts.get("licence"),
            start=facts.get("start"),
            end=facts.get("end"),
            stretches=facts.get("stretches"),
            meta=meta,
        )


def url_row(url: object) -> SourceRow:
    """A row that is to be downloaded. Any text will do: the download names what is wrong."""
    text = clean_text(url) or ""
    return SourceRow(kind="url", locator=normalise_url(text), url=text)


class RowBuilder:
    """Collects rows of one kind (image or video) and hands them out as tables with the schema
    `ROW`."""

    def __init__(self, source: str, kind: str = "image") -> None:
        self.source, self.kind = source, kind
        self._columns: dict[str, list[object]] = {name: [] for name in ROW.names}
        self._count = 0

    def map_columns(
        self, given: Mapping[str, str], available: Sequence[str], where: str
    ) -> dict[str, str]:
        """Our column -> theirs. What was given must exist; the rest is found by the names that are
        usual for the kind."""
        usual_names = USUAL_VIDEO_NAMES if self.kind == "video" else USUAL_NAMES
        mapping: dict[str, str] = {}
        for ours, theirs in given.items():
            if ours not in (*usual_names, "image"):
                known = (*usual_names, "image")
                raise SourceError(
                    f"--column {ours}={theirs}: rows have no {ours!r}; " + nearest(ours, known)
                )
            if theirs not in available:
                raise SourceError(absent_column(where, theirs, available))
            mapping[ours] = theirs
        for ours, usual in usual_names.items():
            if ours not in mapping:
                taken = mapping.values()
                found = [name for name in usual if name in available and name not in taken]
                if found:
                    mapping[ours] = found[0]
        return mapping

    def is_wanted(self, name: str) -> bool:
        """Whether a file counts as what the rows are of, by its ending."""
        return ending_of(name) in ENDINGS[self.kind]

    def add(self, row: SourceRow) -> None:
        """Add one row, or one for each of its stretches."""
        pairs = _pairs(row.stretches)
        if pairs is not None:
            self._add_stretches(row, pairs)
            return
        meta = dict(row.meta)
        if row.stretches is not None:
            # A column of such a name that says something else.
            meta["stretches"] = row.stretches
        caption = row.caption
        if isinstance(caption, (list, tuple)):
            caption = caption[0] if caption else None
        text = clean_text(caption)
        place = row.locator
        last = seconds(row.end)
        if last is not None:
            first = seconds(row.start) or 0.0
            place = f"{row.locator}#t={first:g},{last:g}"
            meta |= {"start": first, "end": last}
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
            "licence": clean_text(row.licence),
            "meta": to_json(meta),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._count += 1

    def _add_stretches(self, row: SourceRow, pairs: Sequence[tuple[object, object]]) -> None:
        captions = _listed(row.caption)
        if captions is None:
            captions = [row.caption] * len(pairs)
        if len(captions) != len(pairs):
            error = "timestamps and captions differ in number"
            self.add(
                replace(
                    row, status=FAILED_TO_DOWNLOAD, error=error, caption=captions, stretches=None
                )
            )
            return
        for (start, end), text in zip(pairs, captions, strict=True):
            self.add(replace(row, caption=text, start=start, end=end, stretches=None))

    def take(self, *, all_rows: bool = False) -> Iterator[pa.Table]:
        """A table if enough rows are waiting (or any, with `all_rows`)."""
        waiting = len(self._columns["uid"])
        if waiting >= TABLE_ROWS or (all_rows and waiting):
            columns, self._columns = self._columns, {name: [] for name in ROW.names}
            yield pa.table(columns, schema=ROW)


def absent_column(where: str, name: str, available: Sequence[str]) -> str:
    """The message for a column that was named and is not there."""
    near = difflib.get_close_matches(name, available, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{where} has no column {name!r}; {hint}its columns: {', '.join(available)}"


def without_address(where: str, what: str, available: Sequence[str]) -> str:
    """The message for a table without a column of addresses, with the likeliest if there is one."""
    marks = ("url", "uri", "link", "href", "src", "address")
    near = [name for name in available if any(mark in name.lower() for mark in marks)]
    return (
        f"{where} has no {what} column among {', '.join(available) or 'no columns at all'}; name "
        f"it with --column url={near[0] if near else 'NAME'}"
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message: the nearest known name, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def clean_text(value: object) -> str | None:
    """Text that Arrow can hold, or None: lone surrogates are replaced, other types are spelt
    out."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def ending_of(name: str) -> str:
    """What follows the last dot of a file's name, in lower case."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


def seconds(value: object) -> float | None:
    """Seconds from a number, or from h:mm:ss, mm:ss; None for anything else."""
    total = 0.0
    try:
        for part in str(value).split(":"):
            total = total * 60 + float(part)
    except ValueError:
        return None
    return total if math.isfinite(total) and total >= 0 else None


def _listed(value: object) -> list[object] | None:
    """A list, also one that is spelt out as Python does; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            with warnings.catch_warnings():
                # Backslashes in captions are no escapes.
                warnings.simplefilter("ignore")
                value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return list(value) if isinstance(value, (list, tuple)) else None


def _pairs(value: object) -> list[tuple[object, object]] | None:
    """A list of (start, end), each a time; None for anything else."""
    pairs = [_listed(pair) or [] for pair in _listed(value) or ()]
    times = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    known = all(seconds(time) is not None for pair in times for time in pair)
    return times if times and known and len(times) == len(pairs) else None


def whole(value: object) -> int | None:
    """A whole number that fits 32 bits, or None."""
    try:
        number = int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None


def to_json(meta: Mapping[str, object]) -> str:
    """A JSON object with sorted keys; bytes are left out, NaN is null, the rest is spelt out."""
    return json.dumps(_plain(dict(meta)), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item) for key, item in value.items() if not isinstance(item, bytes)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    return str(value)
