"""From documents to their pictures: each a row, scored and chosen like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    PENDING,
    ROW,
    ColumnFacts,
    Row,
    make_child_uid,
    make_image_id,
    normalise_url,
    with_columns,
)
from gristmill.pipelines.sources.document_formats import (
    ParsedDocument,
    StoredImage,
    from_dict,
    parse_html,
)
from gristmill.pipelines.sources.documents import DOCUMENT
from gristmill.pipelines.sources.pointer import RETRYABLE, PointerError, read_pointers
from gristmill.pipelines.sources.values import to_json
from gristmill.pipelines.stage import Map, setting

OF_IMAGE = pa.schema(
    [
        pa.field("document_uid", pa.string()),
        pa.field("document_url", pa.string()),
        pa.field("image_number", pa.int32()),
        pa.field("image_name", pa.string()),
        pa.field("image_alt", pa.string()),
        pa.field("image_place", pa.int32()),
        pa.field("texts", pa.list_(pa.string())),
        pa.field("image_captions", pa.list_(pa.string())),
        pa.field("document_images", pa.int32()),
    ]
)
_CHANGED = ("uid", "image_id", "parent_uid", "url", "pointer", "status", "error")
IMAGE_SCHEMA = pa.schema([*[ROW.field(name) for name in _CHANGED], *OF_IMAGE])


@dataclass(frozen=True, kw_only=True)
class DocumentImages(Map):
    """One row for each picture of a document; HTML is parsed here.

    A picture that cannot be had ends by itself, with its reason; its document goes on with the
    others. A document without pictures, or with more than `max_images`, ends here with the reason.
    """

    # 2: what else the source says of a document goes with its pictures; those that are broken
    # already do not count against `max_images`; pages are decoded as browsers do, and `<base>`
    # counts.
    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("trafilatura",)

    # Fewest pictures of a document.
    min_images: int = setting(1, unit="pictures", low=1)
    # Most pictures of a document.
    max_images: int = setting(50, unit="pictures", low=1)
    # Texts that a document must have.
    min_texts: int = setting(1, unit="texts", low=0)
    # Of an HTML file.
    max_bytes: int = setting(20_000_000, unit="bytes", low=1)

    def reads(self) -> tuple[str, ...]:
        """The columns of a row."""
        return ("uid", "url", "pointer", "status", "meta")

    def writes(self) -> pa.Schema:
        """Which picture of which document."""
        return IMAGE_SCHEMA

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "document_uid": ColumnFacts(
                "uid of the row of the document that the picture belongs to."
            ),
            "document_url": ColumnFacts("Address of that document."),
            "image_number": ColumnFacts("Number of the picture in the document, from 0.", low=0),
            "image_name": ColumnFacts("What the picture is called."),
            "image_alt": ColumnFacts("Alternative text of the picture."),
            "image_place": ColumnFacts("Number of texts before the picture.", "texts", low=0),
            "texts": ColumnFacts("All texts of the document, in order."),
            "image_captions": ColumnFacts(
                "Captions of the document's pictures, where the source has them."
            ),
            "document_images": ColumnFacts("Pictures that the document had.", "pictures", low=0),
        }

    def check(self) -> None:
        """Validate the limits."""
        if not 0 < self.min_images <= self.max_images:
            raise ConfigurationError(
                f"min_images is {self.min_images} and max_images {self.max_images}; it needs "
                "0 < min_images <= max_images"
            )

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the pictures of each document, a table a document."""
        rows = table.select(["uid", "url", "pointer", "status", "error", "meta"]).to_pylist()
        metas = [_meta(values) for values in rows]
        pages = [
            row
            for row, values in enumerate(rows)
            if values["status"] == PENDING and DOCUMENT not in metas[row] and values["pointer"]
        ]
        # Archives that are read in turn give pages in their own order.
        done: dict[int, pa.Table] = {}
        read = self._read(table, rows, pages)
        for row, values in enumerate(rows):
            one = table.slice(row, 1)
            if values["status"] != PENDING:
                yield self._failed(one, values["status"], values["error"])
            elif DOCUMENT in metas[row]:
                yield self._pictures(one, values, partial(from_dict, metas[row][DOCUMENT]))
            elif not values["pointer"]:
                yield self._failed(one, FAILED_TO_DECODE, "not a document")
            else:
                while row not in done:
                    done.update([next(read)])
                yield done.pop(row)

    def _read(
        self, table: pa.Table, rows: list[Row], pages: list[int]
    ) -> Iterator[tuple[int, pa.Table]]:
        """The rows of HTML pages with their pictures, in the order that is cheap to read."""
        pointers = [rows[row]["pointer"] for row in pages]
        for at, data in read_pointers(pointers, self.max_bytes):
            one, values = table.slice(pages[at], 1), rows[pages[at]]
            if isinstance(data, PointerError):
                yield pages[at], self._failed(one, FAILED_TO_DOWNLOAD, str(data))
            else:
                yield pages[at], self._pictures(one, values, partial(_page, values, data))

    def _pictures(self, one: pa.Table, row: Row, parse: Callable[[], ParsedDocument]) -> pa.Table:
        try:
            document = parse()
            self._check_counts(document)
        except ValueError as error:
            return self._failed(one, FAILED_TO_DECODE, str(error))
        return _explode(one, row, document)

    def is_retryable(self, status: str, error: str) -> bool:
        """Whether a document that could not be read may be on another day."""
        return status == FAILED_TO_DOWNLOAD and error in RETRYABLE

    def _check_counts(self, document: ParsedDocument) -> None:
        if len(document.images) < self.min_images:
            raise ValueError("too few images")
        # Those that are broken already are on their way out.
        if sum(not image.error for image in document.images) > self.max_images:
            raise ValueError("too many images")
        if len(document.texts) < self.min_texts:
            raise ValueError("too little text")

    def _failed(self, one: pa.Table, status: str, error: str | None) -> pa.Table:
        values: dict[str, object] = dict.fromkeys(OF_IMAGE.names)
        values |= {"status": status, "error": error}
        return with_columns(one, {name: [value] for name, value in values.items()}, IMAGE_SCHEMA)


def _meta(values: Row) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(values["meta"] or "{}")
    return found


def _page(values: Row, data: bytes) -> ParsedDocument:
    """An HTML page, with what an archive says of it."""
    meta = _meta(values)
    stored = {url: StoredImage(**lies) for url, lies in meta.get("pictures", {}).items()}
    return parse_html(data, values["url"], meta.get("charset"), stored)


def _explode(one: pa.Table, row: Row, document: ParsedDocument) -> pa.Table:
    count, uid = len(document.images), row["uid"]
    # What lies where in an archive is in the rows of pictures now.
    meta = {name: value for name, value in _meta(row).items() if name not in (DOCUMENT, "pictures")}
    rows: dict[str, list[object]] = {name: [] for name in IMAGE_SCHEMA.names}
    for number, image in enumerate(document.images):
        locator = normalise_url(image.url) if image.url else image.pointer or ""
        values = {
            "uid": make_child_uid(uid, "DocumentImages", number),
            "image_id": make_image_id("url" if image.url else "pointer", locator),
            "parent_uid": uid,
            "url": image.url,
            "pointer": image.pointer,
            "status": FAILED_TO_DOWNLOAD if image.error else PENDING,
            "error": image.error or None,
            "document_uid": uid,
            "document_url": document.url,
            "image_number": number,
            "image_name": image.name or str(number),
            "image_alt": image.alt,
            "image_place": image.place,
            "texts": document.texts,
            "image_captions": document.captions,
            "document_images": count,
        }
        for name, value in values.items():
            rows[name].append(value)
    repeated = one.take(pa.array(np.zeros(count, np.int64)))
    # The content of a document is in the columns now; once for each picture would be too often.
    repeated = with_columns(repeated, {"meta": [to_json(meta)] * count}, ROW)
    return with_columns(repeated, rows, IMAGE_SCHEMA)
