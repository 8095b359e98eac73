"""What is left of documents and of pairs, put together again: one row each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gristmill.pipelines.documents.document_images import OF_IMAGE
from gristmill.pipelines.schema import (
    FAILED_TO_ASSEMBLE,
    MERGED,
    ROW,
    SUCCESS,
    ColumnFacts,
    Row,
    make_image_id,
    with_columns,
)
from gristmill.pipelines.stage import Map, Needs, require_choice, setting

_OF_DOCUMENT = pa.schema(
    [
        pa.field("texts", pa.list_(pa.string())),
        pa.field("image_places", pa.list_(pa.int32())),
        pa.field("image_names", pa.list_(pa.string())),
        pa.field("image_formats", pa.list_(pa.string())),
        pa.field("image_uids", pa.list_(pa.string())),
        pa.field("image_urls", pa.list_(pa.string())),
        pa.field("image_widths", pa.list_(pa.int32())),
        pa.field("image_heights", pa.list_(pa.int32())),
        pa.field("image_scores", pa.list_(pa.float32())),
        pa.field("image_alts", pa.list_(pa.string())),
        pa.field("image_captions", pa.list_(pa.string())),
        pa.field("image_count", pa.int32()),
        pa.field("images_lost", pa.int32()),
        pa.field("document_images", pa.int32()),
        pa.field("image_offsets", pa.list_(pa.int64())),
        pa.field("image_sizes", pa.list_(pa.int64())),
        pa.field("image_sha256s", pa.list_(pa.string())),
        pa.field("blob_offset", pa.int64()),
        pa.field("blob_size", pa.int64()),
        ROW.field("sha256"),
        pa.field("format", pa.string()),
    ]
)
_ASSEMBLED = ("uid", "image_id", "parent_uid", "url", "pointer", "caption", "status", "error")
# Of one picture; a document's are in `image_widths` and `image_heights`.
_SIZES = ("width", "height", "original_width", "original_height")
DOCUMENT_SCHEMA = pa.schema([*[ROW.field(name) for name in (*_ASSEMBLED, *_SIZES)], *_OF_DOCUMENT])
# Columns of pictures that go on, because they are said of documents too.
_PASS = frozenset((*ROW.names, *DOCUMENT_SCHEMA.names))


@dataclass(frozen=True, kw_only=True)
class AssembleDocuments(Map):
    """The pictures of a document that were kept, and its texts, as one row; the rows of pictures
    are merged into it.

    `caption` of the new row is its texts, one a line. Documents that have too few pictures left end
    here with the reason, and so do pairs that lost one.
    """

    # 2: documents know the digests of their pictures' stored bytes.
    # 3: documents know how many pictures they lost.
    version: ClassVar[int] = 3
    group_by: ClassVar[str] = "document_uid"

    # Fewest pictures that must be left of a document.
    min_images: int = setting(1, unit="pictures", low=0)
    # Every picture that the document had must be left: edit pairs.
    complete: bool = False
    # "keep": pictures stay where they stood. "match": each goes before the text that fits it best,
    # no text taken twice (needs `text_scores`; Zhu et al. 2023).
    placement: str = setting("keep", choices=("keep", "match"))

    def reads(self) -> tuple[str, ...]:
        """What the pictures are, and where their bytes lie."""
        base = (*OF_IMAGE.names, "uid", "format", "width", "height", "sha256", "status")
        names = (*base, "blob_offset", "blob_size", "stored_sha256")
        return (*names, "text_scores") if self.placement == "match" else names

    def writes(self) -> pa.Schema:
        """The document."""
        return DOCUMENT_SCHEMA

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "texts": ColumnFacts("Texts in order."),
            "image_places": ColumnFacts("Number of texts before each picture."),
            "image_names": ColumnFacts("What each picture is called in shards."),
            "image_formats": ColumnFacts("Format of each picture."),
            "image_uids": ColumnFacts("uid of each picture."),
            "image_urls": ColumnFacts("Address of each picture."),
            "image_widths": ColumnFacts("Width of each picture.", "pixels"),
            "image_heights": ColumnFacts("Height of each picture.", "pixels"),
            "image_scores": ColumnFacts("CLIP score of each picture."),
            "image_alts": ColumnFacts("Alternative text of each picture."),
            "image_captions": ColumnFacts("Caption of each picture."),
            "image_count": ColumnFacts("Pictures that are left.", "pictures", low=0),
            "images_lost": ColumnFacts(
                "Pictures that it lost on the way; the line of each in the ledger says why.",
                "pictures",
                low=0,
            ),
            "document_images": ColumnFacts("Pictures that the document had.", "pictures", low=0),
            "image_offsets": ColumnFacts("Where the bytes of each picture begin.", "bytes"),
            "image_sizes": ColumnFacts("How many bytes each picture has.", "bytes"),
            "image_sha256s": ColumnFacts("Digest of the stored bytes of each picture, hex."),
            "sha256": ColumnFacts("Digest of the texts and of all pictures' bytes, hex."),
            "format": ColumnFacts("Format of the pictures: jpg."),
        }

    def forwards_column(self, column: str) -> bool:
        """What was said of single pictures ends here."""
        return column in _PASS

    def needs(self) -> Needs:
        """Columns alone."""
        return Needs(memory_gb=1.0)

    def check(self) -> None:
        """Validate the choice."""
        require_choice(self, "placement")

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield each document, and the rows of its pictures."""
        documents: dict[str, list[int]] = {}
        for row, uid in enumerate(table["document_uid"].to_pylist()):
            documents.setdefault(uid, []).append(row)
        names = [name for name in table.column_names if name in _PASS]
        wanted = [n for n in (*self.reads(), "url", "clip_score") if n in table.column_names]
        for uid, rows in documents.items():
            part = table.take(pa.array(rows, pa.int64()))
            images = part.select(list(dict.fromkeys(wanted))).to_pylist()
            images.sort(key=lambda image: image["image_number"])
            first = part.slice(0, 1).select(names)
            yield self._document(first, uid, images)
            yield _merged(part.select(names))

    def _document(self, first: pa.Table, uid: str, images: list[Row]) -> pa.Table:
        lost = images[0]["document_images"] - len(images)
        error = None
        if self.complete and lost:
            error = "image missing"
        elif len(images) < self.min_images:
            error = "too few images left"
        texts = images[0]["texts"]
        places = [image["image_place"] for image in images]
        if self.placement == "match":
            places = _match([image["text_scores"] for image in images], len(texts), places)
            order = sorted(range(len(images)), key=lambda i: (places[i], i))
            images, places = [images[i] for i in order], [places[i] for i in order]
        digest = hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode("utf-8", "replace"))
        for image in images:
            digest.update((image["sha256"] or "").encode())
        values = {
            **dict.fromkeys(_SIZES),
            "uid": uid,
            "image_id": make_image_id("document", uid),
            "parent_uid": images[0]["uid"],
            "url": images[0]["document_url"],
            "pointer": None,
            "caption": "\n".join(texts),
            "status": SUCCESS if error is None else FAILED_TO_ASSEMBLE,
            "error": error,
            "texts": texts,
            "image_places": places,
            "image_names": _names([image["image_name"] for image in images]),
            "image_formats": [image["format"] for image in images],
            "image_uids": [image["uid"] for image in images],
            "image_urls": [image["url"] or "" for image in images],
            "image_widths": [image["width"] for image in images],
            "image_heights": [image["height"] for image in images],
            "image_scores": [image.get("clip_score") for image in images],
            "image_alts": [image["image_alt"] for image in images],
            "image_captions": images[0]["image_captions"],
            "image_count": len(images),
            "images_lost": lost,
            "document_images": images[0]["document_images"],
            "image_offsets": [image["blob_offset"] for image in images],
            "image_sizes": [image["blob_size"] for image in images],
            "image_sha256s": [image.get("stored_sha256") for image in images],
            "blob_offset": images[0]["blob_offset"],
            "blob_size": sum(image["blob_size"] for image in images),
            "sha256": digest.hexdigest(),
            "format": images[0]["format"],
        }
        return with_columns(first, {n: [v] for n, v in values.items()}, DOCUMENT_SCHEMA)


def _names(given: list[str]) -> list[str]:
    """Numbers run on over the pictures that are left; other names stay."""
    return [str(i) if name.isdigit() else name for i, name in enumerate(given)]


def _match(scores: list[list[float]], texts: int, places: list[int]) -> list[int]:
    """The text before which each picture goes, so that the scores are best in all and no text is
    taken twice; pictures beyond the number of texts stay."""
    from scipy.optimize import linear_sum_assignment

    table = np.array([row[:texts] for row in scores], np.float64)
    found = list(places)
    for picture, text in zip(*linear_sum_assignment(-table), strict=True):
        found[int(picture)] = int(text)
    return found


def _merged(part: pa.Table) -> pa.Table:
    """Rows of pictures, whose content is in the document now."""
    count = len(part)
    values: dict[str, list[object]] = {name: [None] * count for name in _OF_DOCUMENT.names}
    for name in ("sha256", "format"):
        values[name] = part[name].to_pylist()
    values |= {"status": [MERGED] * count, "error": ["part of a document"] * count}
    return with_columns(part, values, DOCUMENT_SCHEMA)
