"""The columns of a row, the same explicit Arrow schema in every part, and how a `uid` is made.

Names and statuses follow img2dataset where it has one. No column is ever of null type.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import xxhash

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

ROW = pa.schema(
    [
        # 32 hex digits, see `make_uid`; stable over runs and machines.
        pa.field("uid", pa.string(), nullable=False),
        # The same without the caption: rows that share it are captions of one image.
        pa.field("image_id", pa.string(), nullable=False),
        # uid of the row this one was cut from; null for rows of a source.
        pa.field("parent_uid", pa.string()),
        # Position in the source, from 0.
        pa.field("row", pa.int64(), nullable=False),
        # Name of the source.
        pa.field("source", pa.string(), nullable=False),
        # http(s) URL; null for rows whose bytes lie in the source itself.
        pa.field("url", pa.string()),
        # Where the bytes lie when there is no URL: see gristmill.pipelines.sources.pointer.
        pa.field("pointer", pa.string()),
        pa.field("caption", pa.string()),
        # `pending` until the bytes are there, then `success` or a failure's kind.
        pa.field("status", pa.string(), nullable=False),
        # Short, countable reason of a failure ("http 404"); null on success.
        pa.field("error", pa.string()),
        # Of the bytes received.
        pa.field("sha256", pa.string()),
        # Pixels, as stored, then as received.
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("licence", pa.string()),
        # JSON object: every other column of the source.
        pa.field("meta", pa.string()),
    ]
)


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


def with_columns(table: pa.Table, columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """`table` with `columns` set, typed by `schema`; existing columns are replaced in place."""
    for name, values in columns.items():
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
