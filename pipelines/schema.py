"""The columns of a row, the same explicit Arrow schema in every part, and how a `uid` is made.

Names and statuses follow img2dataset where it has one. No column is ever of null type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import xxhash

from gristmill.errors import StageError

# A row as Arrow hands it to Python: column -> a value of the type that its schema says.
Row: TypeAlias = dict[str, Any]

SUCCESS = "success"
FAILED_TO_DOWNLOAD = "failed_to_download"
FAILED_TO_RESIZE = "failed_to_resize"
FAILED_TO_DECODE = "failed_to_decode"
FAILED_TO_ASSEMBLE = "failed_to_assemble"
FAILED_TO_CUT = "failed_to_cut"
POISONED = "poisoned"
PENDING = "pending"
# A row with one of these goes on from a Map; any other ends there.
GOING_ON = (SUCCESS, PENDING)
# Its content went into another row, such as the pictures of a document.
MERGED = "merged"


@dataclass(frozen=True)
class ColumnFacts:
    """What a column means, for people: written beside the schema, never into it, so that stored
    bytes do not depend on words."""

    meaning: str
    unit: str = ""
    # Lowest and highest value that can occur; None where there is no end.
    low: float | None = None
    high: float | None = None
    # What must be set for the column to be there; empty: it always is.
    only_with: str = ""


ROW = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("parent_uid", pa.string()),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("pointer", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("licence", pa.string()),
        pa.field("meta", pa.string()),
    ]
)
# Of these columns and of others that several stages write with one meaning.
ROW_FACTS = {
    "uid": ColumnFacts("32 hex digits, see `make_uid`; stable over runs and machines."),
    "image_id": ColumnFacts("The same without the caption: captions of one image share it."),
    "parent_uid": ColumnFacts("uid of the row this one was cut from; null for rows of a source."),
    "row": ColumnFacts("Position in the source, from 0.", low=0),
    "source": ColumnFacts("Name of the source."),
    "url": ColumnFacts("http(s) URL; null for rows whose bytes lie in the source itself."),
    "pointer": ColumnFacts("Where the bytes lie when there is no URL: a place in the source."),
    "caption": ColumnFacts("Text of the row; null if it has none."),
    "status": ColumnFacts("pending until the bytes are there, then success or a failure's kind."),
    "error": ColumnFacts('Short, countable reason of a failure ("http 404"); null on success.'),
    "sha256": ColumnFacts("Digest of the bytes received, hex."),
    "width": ColumnFacts("Width as stored.", "pixels", low=1),
    "height": ColumnFacts("Height as stored.", "pixels", low=1),
    "original_width": ColumnFacts("Width as received.", "pixels", low=1),
    "original_height": ColumnFacts("Height as received.", "pixels", low=1),
    "licence": ColumnFacts("Licence of the row, as its source says."),
    "meta": ColumnFacts("JSON object: every other column of the source."),
    "image": ColumnFacts("Bytes of the picture or clip, stored beside the part, not in it."),
    "blob_offset": ColumnFacts("Where the stored bytes begin in the part's file.", "bytes", low=0),
    "blob_size": ColumnFacts("How many bytes are stored.", "bytes", low=0),
    "stored_sha256": ColumnFacts("Digest of the stored bytes, hex; `sha256` is of those received."),
    "received_bytes": ColumnFacts("Size of what was received.", "bytes", low=0),
    "format": ColumnFacts("Format of the bytes stored: jpg, png, webp, mp4."),
    "has_audio": ColumnFacts("Whether there is sound."),
    "fps": ColumnFacts("Frames a second, on average.", "1/s", low=0),
    "duration_s": ColumnFacts("How long it plays.", "s", low=0),
    "frames": ColumnFacts("Frames that the container holds.", "frames", low=0),
}


MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("text", pa.string())]))
"""Type of a column of conversations: turns in order."""


def _prefixed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data


def digest_fields(*fields: str) -> str:
    """xxh3-128 of length-prefixed UTF-8 fields, as 32 hex digits; no two field lists run
    together."""
    return xxhash.xxh3_128_hexdigest(b"".join(_prefixed(field) for field in fields))


def normalise_url(url: str) -> str:
    """URL as given, without its fragment, scheme and host in lower case."""
    url = url.strip().partition("#")[0]
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    authority = rest[:cut]
    user, at, host = authority.rpartition("@")
    return f"{scheme.lower()}://{user}{at}{host.lower()}{rest[cut:]}"


def make_uid(kind: str, locator: str, caption: str | None) -> str:
    """uid of a source row. `kind` is `url`, `path` or `bytes`; `locator` the normalised URL, the
    path relative to the source's root, or the sha256 of embedded bytes."""
    return digest_fields(kind, locator, caption or "")


def make_image_id(kind: str, locator: str) -> str:
    """What rows that are captions of one image share."""
    return digest_fields(kind, locator)


def make_child_uid(parent_uid: str, stage: str, ordinal: int) -> str:
    """uid of the `ordinal`-th row that `stage` cut from `parent_uid`."""
    return digest_fields("child", parent_uid, stage, str(ordinal))


def with_columns(table: pa.Table, columns: Mapping[str, object], schema: pa.Schema) -> pa.Table:
    """`table` with `columns` set, typed by `schema`; existing columns are replaced in place.

    Raises `StageError` for a column that `schema` gives no type.
    """
    for name, values in columns.items():
        if name not in schema.names:
            raise StageError(
                f"with_columns is given the column {name!r}, which its schema has not; add "
                f"pa.field({name!r}, ...) to the schema"
            )
        field = schema.field(name)
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            array = values.cast(field.type)
        else:
            array = pa.array(values, field.type)
        index = table.schema.get_field_index(name)
        if index < 0:
            table = table.append_column(field, array)
        else:
            table = table.set_column(index, field, array)
    return table


def range_text(low: float | None, high: float | None) -> str:
    """The ends between which a value lies: "0..1", "at least 1"; empty without an end."""
    if low is not None and high is not None:
        return f"{low:g}..{high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else ""
