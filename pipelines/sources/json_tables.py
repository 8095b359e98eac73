"""Tables in one JSON object: a list of rows under some name (RedCaps, TextVQA), or a list a column
(SBU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.pipelines.sources.columns import USUAL_VIDEO_NAMES
from gristmill.pipelines.sources.conversations import TURNS

# An object with one of these is a row itself.
_OF_ROWS = {name for ours in ("url", "path") for name in USUAL_VIDEO_NAMES[ours]}


def is_coco(document: Mapping[str, object]) -> bool:
    """Whether an object has the pictures of a COCO file, and what is said of them beside."""
    return "images" in document and ("annotations" in document or not _is_columns(document))


def rows_of_object(document: Mapping[str, object]) -> Sequence[object]:
    """The rows of an object; itself, if it is no table."""
    if any(isinstance(document.get(name), str) for name in _OF_ROWS):
        return [document]
    if _is_columns(document):
        columns = [value for value in document.values() if isinstance(value, list)]
        return [dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True)]
    tables: list[Any] = [
        value for name, value in document.items() if name not in TURNS and _is_table(value)
    ]
    return tables[0] if len(tables) == 1 else [document]


def _is_table(value: object) -> bool:
    """Whether a value is a list of rows; which of them are broken is for the reader to say."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _is_columns(document: Mapping[str, object]) -> bool:
    """Whether an object is nothing but lists of one length, not of objects."""
    lists = [value for value in document.values() if isinstance(value, list)]
    return (
        len(lists) == len(document) > 1
        and len({len(one) for one in lists}) == 1
        and not any(isinstance(cell, Mapping) for one in lists for cell in one)
    )
