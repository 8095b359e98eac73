"""Rows of a source from whatever its reader finds: names mapped, captions typed, uid made."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from gristmill.pipelines.stage import missing_column

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


class RowBuilder:
    """Collects rows of one kind (image or video) and hands them out as tables with the schema
    `ROW`."""

    def __init__(self, source: str, kind: str = "image") -> None:
        self.source, self.kind = source, kind
        self._columns: dict[str, list[Any]] = {name: [] for name in ROW.names}
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
                raise SourceError(missing_column("the column mapping", ours, known))
            if theirs not in available:
                raise SourceError(f"{where}: " + missing_column("the mapping", theirs, available))
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

    def add(
        self,
        *,
        kind: str,
        locator: str,
        caption: Any = None,
        url: str | None = None,
        pointer: str | None = None,
        status: str = PENDING,
        error: str | None = None,
        sha256: str | None = None,
        width: Any = None,
        height: Any = None,
        licence: Any = None,
        start: Any = None,
        end: Any = None,
        stretches: Any = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one row; `kind` and `locator` are those of `make_uid`. Of a list of captions the
        first is taken.

        `start` and `end` (seconds, or h:mm:ss) are the stretch of a video that the row is about;
        they are part of its uid, and go into `meta` in seconds. `stretches` is a list of such
        pairs, beside a list of as many captions or one for all: each becomes a row.
        """
        facts: dict[str, Any] = {
            "kind": kind, "locator": locator, "url": url, "pointer": pointer, "sha256": sha256,
            "width": width, "height": height, "licence": licence, "meta": meta,
        }  # fmt: skip
        pairs = _pairs(stretches)
        if pairs is not None:
            self._add_stretches(pairs, caption, facts | {"status": status, "error": error})
            return
        if stretches is not None:
            # A column of such a name that says something else.
            meta = {**(meta or {}), "stretches": stretches}
        if isinstance(caption, (list, tuple)):
            caption = caption[0] if caption else None
        text = clean_text(caption)
        place = locator
        last = seconds(end)
        if last is not None:
            first = seconds(start) or 0.0
            place = f"{locator}#t={first:g},{last:g}"
            meta = {**(meta or {}), "start": first, "end": last}
        values = {
            "uid": make_uid(kind, place, text),
            "image_id": make_image_id(kind, locator),
            "parent_uid": None,
            "row": self._count,
            "source": self.source,
            "url": url,
            "pointer": pointer,
            "caption": text,
            "status": status,
            "error": error,
            "sha256": sha256,
            "width": None,
            "height": None,
            "original_width": whole(width),
            "original_height": whole(height),
            "licence": clean_text(licence),
            "meta": to_json(meta or {}),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._count += 1

    def _add_stretches(
        self, pairs: list[tuple[Any, Any]], caption: Any, facts: dict[str, Any]
    ) -> None:
        captions = _listed(caption)
        if captions is None:
            captions = [caption] * len(pairs)
        if len(captions) != len(pairs):
            error = "timestamps and captions differ in number"
            failed = {"status": FAILED_TO_DOWNLOAD, "error": error}
            self.add(**facts | failed, caption=captions)
            return
        for (start, end), text in zip(pairs, captions, strict=True):
            self.add(**facts, caption=text, start=start, end=end)

    def add_url(self, url: Any, **values: Any) -> None:
        """Add a row that is to be downloaded. Any text will do: the download names what is
        wrong."""
        text = clean_text(url) or ""
        self.add(kind="url", locator=normalise_url(text), url=text, **values)

    def take(self, *, all_rows: bool = False) -> Iterator[pa.Table]:
        """A table if enough rows are waiting (or any, with `all_rows`)."""
        waiting = len(self._columns["uid"])
        if waiting >= TABLE_ROWS or (all_rows and waiting):
            columns, self._columns = self._columns, {name: [] for name in ROW.names}
            yield pa.table(columns, schema=ROW)


def clean_text(value: Any) -> str | None:
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


def seconds(value: Any) -> float | None:
    """Seconds from a number, or from h:mm:ss, mm:ss; None for anything else."""
    total = 0.0
    try:
        for part in str(value).split(":"):
            total = total * 60 + float(part)
    except ValueError:
        return None
    return total if math.isfinite(total) and total >= 0 else None


def _listed(value: Any) -> list[Any] | None:
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


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """A list of (start, end), each a time; None for anything else."""
    pairs = [_listed(pair) or [] for pair in _listed(value) or ()]
    times = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    known = all(seconds(time) is not None for pair in times for time in pair)
    return times if times and known and len(times) == len(pairs) else None


def whole(value: Any) -> int | None:
    """A whole number that fits 32 bits, or None."""
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None


def to_json(meta: Mapping[str, Any]) -> str:
    """A JSON object with sorted keys; bytes are left out, NaN is null, the rest is spelt out."""
    return json.dumps(_plain(dict(meta)), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
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
