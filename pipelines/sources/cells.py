"""What `--column ours=THEIRS` may name beside a column: something within a cell, the first of
several that says anything, or a text made of cells. Sets of the catalog are read by it.

| THEIRS | meaning |
|---|---|
| `TEXT` | the column of that name, whatever signs it has |
| `data.caption.content`, `timestamp.0` | within mappings and lists, also those that are spelt out |
| `clip.*.span` | of each item of a list |
| `alt_text\\|title` | the first that says anything |
| `{video_id}.mp4`, `COCO_{id:012}.jpg`, `{6:unquote}` | a text of cells; padded; URL decoded |
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection, Mapping

from gristmill.pipelines.sources.values import spelt, text_of

_HOLE = re.compile(r"\{([^{}:]+)(?::(?:0(\d{1,3})|(unquote)))?\}")


def cell_of(values: Mapping[str, object], name: str) -> object:
    """What a row says under a name, as above; None if nothing."""
    if name in values:
        return values[name]
    for one in _alternatives(name):
        found = _one(values, one)
        if not _says_nothing(found):
            return found
    return None


def missing_column(names: Collection[str], name: str) -> str | None:
    """The column that must be there for a name to say anything, if it is not; of several, one."""
    if name in names:
        return None
    first: str | None = None
    for one in _alternatives(name):
        needed = [hole[1] for hole in _HOLE.finditer(one)] or [one]
        absent = [n for n in needed if n not in names and n.split(".")[0] not in names]
        if not absent:
            return None
        first = first or absent[0]
    return first


def _alternatives(name: str) -> list[str]:
    return name.split("|")


def _one(values: Mapping[str, object], name: str) -> object:
    if name in values:
        return values[name]
    if not _HOLE.search(name):
        first, *steps = name.split(".")
        return _within(values.get(first), steps)
    pieces, at = [], 0
    for hole in _HOLE.finditer(name):
        cell = _one(values, hole[1])
        try:
            said = None if _says_nothing(cell) else text_of(cell)
        except UnicodeDecodeError:
            # Bytes are no part of a text.
            said = None
        if said is None:
            return None
        if hole[3]:
            said = urllib.parse.unquote_plus(said)
        pieces += [name[at : hole.start()], said.zfill(int(hole[2] or 0))]
        at = hole.end()
    return "".join([*pieces, name[at:]])


def _within(value: object, steps: list[str]) -> object:
    """What lies in mappings and lists, step by step."""
    if not steps:
        return value
    step, *others = steps
    value = spelt(value)
    if isinstance(value, Mapping):
        return _within(value.get(step), others)
    if not isinstance(value, (list, tuple)):
        return None
    if step == "*":
        return [_within(item, others) for item in value]
    return _within(value[int(step)], others) if step.isdigit() and int(step) < len(value) else None


def _says_nothing(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())
