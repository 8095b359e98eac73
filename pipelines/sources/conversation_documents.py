"""Rows of conversations about pictures as documents: what is said in turn, pictures where they are
marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gristmill.errors import SourceError
from gristmill.pipelines.sources.cells import cell_of, missing_column
from gristmill.pipelines.sources.columns import absent_column
from gristmill.pipelines.sources.conversations import (
    IMAGE_MARK,
    PAIRS,
    TURNS,
    Turn,
    conversation_of,
    pictures_within,
    with_marks,
)
from gristmill.pipelines.sources.document_formats import DocumentImage, ParsedDocument
from gristmill.pipelines.sources.reasons import (
    NO_ANSWER,
    NO_PICTURES,
    NO_TURNS,
    NOT_UTF8,
    URL_NOT_TEXT,
)
from gristmill.pipelines.sources.values import listed, text_of

# Where such rows keep their pictures: one, or a list.
PICTURES = (
    "images", "image", "image_path", "image_paths", "image_file", "img", "file_name", "image_url",
    "path", "url",
)  # fmt: skip

Within = Callable[[str], str]
"""A cell of the row, as `column` or `column[3].bytes`, -> pointer to what lies in it."""


def map_pictures(available: Sequence[str], given: Mapping[str, str], where: str) -> str:
    """The column of pictures: that which was given as `image`, else the first of `PICTURES` that is
    there; empty if there is none. Raises `SourceError` for what was given and is not there."""
    for ours, theirs in given.items():
        if ours != "image":
            raise SourceError(f"the column mapping: {ours!r}; of conversations only image=NAME")
        absent = missing_column(available, theirs)
        if absent is not None:
            raise SourceError(absent_column(where, absent, available))
        return theirs
    return next((name for name in PICTURES if name in available), "")


def check_conversation(available: Sequence[str], given: Mapping[str, str], where: str) -> None:
    """Raise `SourceError` if a table holds no conversations."""
    map_pictures(available, given, where)
    pairs = any(set(pair) <= set(available) for pair in PAIRS)
    if not pairs and not set(TURNS) & set(available):
        raise SourceError(
            f"{where} holds no conversations: its columns are {', '.join(available)}; they are "
            f"looked for in {', '.join(TURNS)}, or in a question and an answer"
        )


def used_columns(values: Mapping[str, object], pictures: str) -> set[str]:
    """Columns of a row whose content is in its document and its turns."""
    return {*TURNS, "system", *(name for pair in PAIRS for name in pair), pictures}


def parse_conversation(
    values: Mapping[str, object], pictures: str, within: Within | None
) -> tuple[ParsedDocument, list[Turn]]:
    """The document of a row, a text for each turn, and its turns with a mark for each picture.

    `pictures`: the column that names them or holds them; `within`: None for tables that can hold
    none. Raises `ValueError` with a countable reason for what is no conversation about pictures.
    """
    said = conversation_of(values)
    if not said:
        raise ValueError(NO_TURNS)
    if not any(turn.role == "assistant" and turn.text.strip() for turn in said):
        raise ValueError(NO_ANSWER)
    cells = _cells(values, pictures)
    if not cells:
        raise ValueError(NO_PICTURES)
    turns = with_marks(said, len(cells))
    places = [at for at, turn in enumerate(turns) for _ in range(turn.text.count(IMAGE_MARK))]
    images = [
        _image(cell, place, name, within) for (cell, name), place in zip(cells, places, strict=True)
    ]
    texts = [turn.text.replace(IMAGE_MARK, "").strip() for turn in turns]
    return ParsedDocument(texts, images), turns


def _cells(values: Mapping[str, object], pictures: str) -> list[tuple[object, str]]:
    """Pictures of a row, and where in it each lies."""
    cell = cell_of(values, pictures) if pictures else None
    several = listed(cell)
    if several is not None:
        return [(one, f"{pictures}[{i}]") for i, one in enumerate(several) if one is not None]
    if cell is not None and cell != "":
        return [(cell, pictures)]
    return [(one, "") for one in pictures_within(values)]


def _image(cell: object, place: int, name: str, within: Within | None) -> DocumentImage:
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(data, bytes) and within is not None and name:
        ending = ".bytes" if isinstance(cell, Mapping) else ""
        return DocumentImage(place=place, pointer=within(f"{name}{ending}"))
    try:
        url = text_of(cell.get("path") if isinstance(cell, Mapping) else cell)
    except UnicodeDecodeError:
        return DocumentImage(place=place, error=NOT_UTF8)
    return DocumentImage(place=place, url=url, error="" if url else URL_NOT_TEXT)
