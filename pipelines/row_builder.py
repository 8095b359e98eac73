"""Rows of a source from whatever its reader finds: names mapped, captions typed, uid made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.schema import PENDING, ROW, make_image_id, make_uid, normalise_url
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


def map_columns(given: Mapping[str, str], available: Sequence[str], where: str) -> dict[str, str]:
    """Our column -> theirs. What was given must exist; the rest is found by its usual names."""
    mapping: dict[str, str] = {}
    for ours, theirs in given.items():
        if ours not in (*USUAL_NAMES, "image"):
            known = (*USUAL_NAMES, "image")
            raise SourceError(missing_column("the column mapping", ours, known))
        if theirs not in available:
            raise SourceError(f"{where}: " + missing_column("the mapping", theirs, available))
        mapping[ours] = theirs
    for ours, usual in USUAL_NAMES.items():
        if ours not in mapping:
            found = [name for name in usual if name in available and name not in mapping.values()]
            if found:
                mapping[ours] = found[0]
    return mapping


class RowBuilder:
    """Collects rows and hands them out as tables with the schema `ROW`."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._columns: dict[str, list[Any]] = {name: [] for name in ROW.names}
        self._count = 0

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
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one row; `kind` and `locator` are those of `make_uid`."""
        text = clean_text(caption)
        values = {
            "uid": make_uid(kind, locator, text),
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
