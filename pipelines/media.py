"""What Score stages look at: how the stored bytes of a row become something to see, decoded once
for all stages that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.pipelines.decode import decode_rgb

BYTES_OF_A_PIXEL = 3
# What `Media.decode` makes of a row: a picture (H x W x 3, uint8), the pictures of a row, the
# frames of a clip, or the file as it is. Each stage knows which, by its `media`.
Decoded: TypeAlias = Any
# Where the pictures of a row lie that has several.
MULTI_IMAGE_COLUMNS = ("image_offsets", "image_sizes")
# Digests of these pieces, in the same order.
PIECE_DIGESTS = "image_sha256s"
# Columns that may stand in the stead of pictures.
TOKEN_COLUMNS = ("image_codes", "image_latents")
# What shards are of whose samples have several pictures, each a member `{key}.{name}.jpg`: pieces
# that are stored, or frames of the clip that is.
STORED_MULTI_IMAGE = ("document", "edit")
MULTI_IMAGE = (*STORED_MULTI_IMAGE, "frames")


@dataclass(frozen=True)
class Media:
    """One way to look at a row."""

    name: str
    # Stored bytes -> what a stage is handed for the row.
    decode: Callable[[bytes], Decoded]
    # Columns that `cost` and `seconds` read, where they exist.
    columns: tuple[str, ...]
    # Decoded bytes of each row; blocks of rows are bounded by their sum.
    cost: Callable[[pa.Table], list[int]]
    # Seconds that decoding each row may take beyond the deadline of a row.
    seconds: Callable[[pa.Table], list[float]]
    # True: a row has several pieces (`image_offsets`, `image_sizes`), each decoded on its own, and
    # a stage is handed their list.
    multi_image: bool = False


def _area(table: pa.Table) -> list[int]:
    if "width" not in table.column_names or "height" not in table.column_names:
        return [0] * len(table)
    area = pc.multiply(table["width"].cast(pa.int64()), table["height"].cast(pa.int64()))
    cost: list[int] = pc.multiply(pc.fill_null(area, 0), BYTES_OF_A_PIXEL).to_pylist()
    return cost


def _stored(table: pa.Table) -> list[int]:
    found: list[int] = pc.fill_null(table["blob_size"], 0).to_pylist()
    return found


def _stored_pieces(table: pa.Table) -> list[int]:
    # A stored JPEG grows about tenfold when it is decoded.
    return [10 * sum(sizes or ()) for sizes in table["image_sizes"].to_pylist()]


def no_seconds(table: pa.Table) -> list[float]:
    """Nothing beyond the deadline of a row."""
    return [0.0] * len(table)


def _playing_time(table: pa.Table) -> list[float]:
    """A video may take five times as long as it plays: large frames of new codecs do on a core."""
    if "duration_s" not in table.column_names:
        return no_seconds(table)
    return [5 * (seconds or 0.0) for seconds in table["duration_s"].to_pylist()]


def _as_it_is(data: bytes) -> bytes:
    return data


# uint8 RGB [height, width, 3].
PICTURE = Media("picture", decode_rgb, ("width", "height"), _area, no_seconds)
# The pictures of a document or pair, in their order.
PICTURES = Media(
    "pictures", decode_rgb, ("image_sizes",), _stored_pieces, no_seconds, multi_image=True
)
# The file as it is stored: a whole video, for stages that read it in passes.
FILE = Media("file", _as_it_is, ("duration_s",), _stored, _playing_time)


def explode_pieces(table: pa.Table) -> tuple[list[int], pa.Table]:
    """Rows that have several pictures -> the row of each picture, and a table of where they lie."""
    offsets, sizes = table["image_offsets"].to_pylist(), table["image_sizes"].to_pylist()
    owners = [row for row, of_row in enumerate(offsets) for _ in of_row or ()]
    parts = table["part"].to_pylist()
    places = {
        "part": pa.array([parts[row] for row in owners], pa.int32()),
        "blob_offset": pa.array([o for of_row in offsets for o in of_row or ()], pa.int64()),
        "blob_size": pa.array([s for of_row in sizes for s in of_row or ()], pa.int64()),
    }
    if PIECE_DIGESTS in table.column_names:
        digests = table[PIECE_DIGESTS].to_pylist()
        found = [
            digest
            for of_row, known in zip(offsets, digests, strict=True)
            for digest in known or [None] * len(of_row or ())
        ]
        places["stored_sha256"] = pa.array(found, pa.string())
    return owners, pa.table(places)
