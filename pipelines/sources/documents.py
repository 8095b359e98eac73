"""The source of documents and of edit pairs: one row each, its content as JSON in `meta`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.schema import FAILED_TO_DECODE, normalise_url
from gristmill.pipelines.sources.add_rows import add_broken
from gristmill.pipelines.sources.cells import cell_of
from gristmill.pipelines.sources.chunks import Chunk
from gristmill.pipelines.sources.conversation_documents import (
    check_conversation,
    map_pictures,
    parse_conversation,
    used_columns,
)
from gristmill.pipelines.sources.document_formats import (
    DOCUMENT_COLUMNS,
    WORDINGS,
    DocumentImage,
    Embedded,
    ParsedDocument,
    check_pair,
    is_document,
    map_pair,
    pair_document,
    parse_document,
)
from gristmill.pipelines.sources.files import file_row, resolve_inside
from gristmill.pipelines.sources.formats import ARCHIVES
from gristmill.pipelines.sources.lines import first_objects, objects_of
from gristmill.pipelines.sources.parquet import open_parquet, rows_of_group
from gristmill.pipelines.sources.pointer import file_pointer, parquet_pointer
from gristmill.pipelines.sources.reasons import BROKEN_ROW_GROUP, NOT_UTF8, OUTSIDE
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.values import text_of, texts_of
from gristmill.pipelines.sources.warc import check_archive, read_warc
from gristmill.pipelines.stage import setting
from gristmill.pipelines.storage import Folder

DOCUMENT = "document"
"""Key of `meta` under which a document lies."""
TURNS_OF_DOCUMENT = "turns"
"""Key of `meta` of a conversation: its turns, [role, text], with a mark for each picture."""

# Name of a file beside the table -> pointer.
Beside = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class DocumentSource(Source):
    """Documents: JSON lines or Parquet in the form of MMC4 or OBELICS, a folder of HTML files, or
    the pages of crawl archives (WARC).

    With `kind="pair"`, edit pairs: Parquet or JSON lines with two pictures (embedded, or names of
    files beside the table or below `images`, or URLs) and an instruction, under the names that
    public datasets use. With `kind="conversation"`, conversations about pictures, in the shapes of
    LLaVA, ShareGPT, OpenAI and FineVision.
    """

    # 2: what else a line says stays beside the document; of a list of wordings of one edit the
    # first is taken; pictures beside a text of one place, and those within the document.
    version: ClassVar[int] = 2

    # What the rows are of.
    kind: str = setting("document", choices=("document", "pair", "conversation"))

    def _read(self, chunk: Chunk) -> Iterator[pa.Table]:
        first = chunk.files[0]
        rows = RowBuilder(self.title(), self.kind, place=chunk.place)
        if chunk.format == "folder":
            return self._read_pages(Folder(first), chunk.files[1:], rows)
        if chunk.format in ("parquet", "hf"):
            return self._read_parquet(first, chunk.groups, rows)
        if chunk.format == "jsonl":
            return self._read_lines(first, rows)
        if chunk.format == "warc" and self.kind == "document":
            return read_warc(first, rows, documents=True, opt_out=self.opt_out == "header")
        raise SourceError(
            f"{first}: {self.kind}s come as .jsonl, .parquet"
            + (", .warc or a folder of .html" if self.kind == "document" else "")
            + f", not as {chunk.format}"
        )

    def _check_columns(self, kind: str, path: str) -> None:
        """The columns of pairs by their names; that of the first lines any is a document."""
        if kind in ARCHIVES:
            check_archive(path, kind, self.kind)
            return
        if kind in ("parquet", "hf"):
            with open_url(path) as opened:
                names: list[str] = open_parquet(path, opened).schema_arrow.names
        else:
            lines = first_objects(path)
            if not lines:
                return
            names = list(dict.fromkeys(name for values in lines for name in values))
        if self.kind == "pair":
            check_pair(names, self.columns, path)
        elif self.kind == "conversation":
            check_conversation(names, self.columns, path)
        elif not is_document(names):
            raise SourceError(
                f"{path} holds no documents: its columns are {', '.join(names)}; MMC4 has "
                "text_list and image_info, OBELICS texts and images"
            )

    def _read_pages(
        self, folder: Folder, names: tuple[str, ...], rows: RowBuilder
    ) -> Iterator[pa.Table]:
        """HTML files; they are parsed later, where a bad one harms nobody."""
        for name in names:
            rows.add(file_row(folder, name))
            yield from rows.take()
        yield from rows.take(all_rows=True)

    def _files(self, table: str) -> Folder:
        """Below which lie the files that a table names."""
        return Folder(self.images or table.rpartition("/")[0] or ".")

    def _read_lines(self, url: str, rows: RowBuilder) -> Iterator[pa.Table]:
        folder = self._files(url)
        for values in objects_of(url, rows, FAILED_TO_DECODE):
            if values is not None:
                self._add(rows, values, url, lambda name: _beside(folder, name))
            yield from rows.take()
        yield from rows.take(all_rows=True)

    def _read_parquet(
        self, url: str, groups: tuple[int, int], rows: RowBuilder
    ) -> Iterator[pa.Table]:
        folder = self._files(url)
        with open_url(url) as opened:
            file = open_parquet(url, opened)
            for group in range(*groups):
                for row, values in enumerate(rows_of_group(file, group, 64)):
                    place = (url, group, row)
                    if values is None:
                        add_broken(rows, place, FAILED_TO_DECODE, BROKEN_ROW_GROUP)
                    else:
                        self._add(rows, values, url, lambda name: _beside(folder, name), place)
                    yield from rows.take()
        yield from rows.take(all_rows=True)

    def _add(
        self,
        rows: RowBuilder,
        values: Mapping[str, object],
        where: str,
        beside: Beside,
        place: tuple[str, int, int] | None = None,
    ) -> None:
        turns: dict[str, object] = {}
        try:
            if self.kind == "pair":
                document = _pair(values, self.columns, where, beside, place)
            elif self.kind == "conversation":
                pictures = map_pictures(list(values), self.columns, where)
                document, said = parse_conversation(values, pictures, _within(place))
                document = _located(document, beside)
                turns = {TURNS_OF_DOCUMENT: said}
            else:
                document = _located(parse_document(values, _embedded(place)), beside)
        except ValueError as error:
            content = sorted(values.items(), key=str)
            add_broken(rows, content, FAILED_TO_DECODE, str(error))
            return
        parsed = document.as_dict()
        # What the document is, wherever it lies; embedded pictures count by their bytes.
        spoken = json.dumps({**parsed, **turns}, sort_keys=True, ensure_ascii=False)
        embedded = [hashlib.sha256(data).hexdigest() for data in _bytes_in(values.values())]
        if embedded:
            spoken = json.dumps([document.texts, embedded], ensure_ascii=False)
        digest = hashlib.sha256(spoken.encode("utf-8", "replace")).hexdigest()
        locator = normalise_url(document.url) + "#" + digest if document.url else digest
        caption = document.texts[0] if self.kind == "pair" and document.texts else None
        rows.add(
            SourceRow(
                kind=self.kind,
                locator=locator,
                url=document.url,
                caption=caption,
                meta={**self._others(values), **turns, DOCUMENT: parsed},
            )
        )

    def _others(self, values: Mapping[str, object]) -> dict[str, object]:
        """What a line says beside its document."""
        used = set(DOCUMENT_COLUMNS)
        if self.kind == "pair":
            used = set({**map_pair(list(values), {}, ""), **self.columns}.values())
        if self.kind == "conversation":
            used = used_columns(values, map_pictures(list(values), self.columns, ""))
        return {name: value for name, value in values.items() if name not in used}


def _bytes_in(cells: Iterable[object]) -> Iterator[bytes]:
    """The pictures that lie in a row."""
    for cell in cells:
        if isinstance(cell, list):
            yield from _bytes_in(cell)
            continue
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if isinstance(data, bytes):
            yield data


def _embedded(place: tuple[str, int, int] | None) -> Embedded | None:
    """Where a picture of a row lies that is in its table; None for tables that can hold none."""
    if place is None:
        return None
    return lambda number, is_struct: parquet_pointer(
        *place, f"images[{number}]{'.bytes' if is_struct else ''}"
    )


def _within(place: tuple[str, int, int] | None) -> Callable[[str], str] | None:
    """Pointers to the cells of a row of a Parquet file; None for tables that hold no bytes."""
    return None if place is None else lambda cell: parquet_pointer(*place, cell)


def _located(document: ParsedDocument, beside: Beside) -> ParsedDocument:
    """The same; pictures whose address is no URL are files beside the table, or lie in it."""
    images = []
    for image in document.images:
        if image.url is not None and not image.url.startswith(("http://", "https://")):
            try:
                image = replace(image, url=None, pointer=beside(image.url))
            except ValueError as error:
                # One bad address is that picture's; the document keeps its others.
                image = replace(image, error=image.error or str(error))
        images.append(image)
    return replace(document, images=images)


def _pair(
    values: Mapping[str, object],
    given: Mapping[str, str],
    where: str,
    beside: Beside,
    place: tuple[str, int, int] | None,
) -> ParsedDocument:
    # What was given may be missing in a line, which fails by itself.
    mapping = {**map_pair(list(values), {}, where), **given}
    images = []
    for at, name in enumerate(("source", "target")):
        cell = cell_of(values, mapping.get(name, ""))
        if isinstance(cell, list):
            if len(cell) > 1:
                raise ValueError(f"several {name} images")
            cell = cell[0] if cell else None
        url: str | None = None
        pointer: str | None = None
        if isinstance(cell, Mapping) and cell.get("bytes") is not None and place is not None:
            pointer = parquet_pointer(*place, f"{mapping[name]}.bytes")
        elif isinstance(cell, bytes) and place is not None:
            pointer = parquet_pointer(*place, mapping[name])
        else:
            path = cell.get("path") if isinstance(cell, Mapping) else cell
            if not isinstance(path, str) or not path:
                raise ValueError(f"no {name} image")
            url = path if path.startswith(("http://", "https://")) else None
            pointer = None if url else beside(path)
        images.append(DocumentImage(place=at, url=url, pointer=pointer, name=name))
    try:
        said = texts_of(cell_of(values, mapping.get("instruction", "")))[0]
        # Several are the turns of one edit, or ways to say it.
        instruction = said[0] if said and mapping["instruction"] in WORDINGS else "; ".join(said)
        captions = [
            text_of(cell_of(values, mapping.get(f"{name}_caption", ""))) or ""
            for name in ("source", "target")
        ]
    except UnicodeDecodeError as error:
        raise ValueError(NOT_UTF8) from error
    return pair_document(images[0], images[1], instruction, captions if any(captions) else [])


def _beside(folder: Folder, name: str) -> str:
    """Pointer to a file that a table names, below the table's folder; a data URL is its own."""
    if name[:5].lower() == "data:":
        return f"data:{name[5:]}"
    url = resolve_inside(folder, name)
    if url is None:
        raise ValueError(OUTSIDE)
    return file_pointer(url)
