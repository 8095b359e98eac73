"""What the bytes of a picture say of it, for the pictures that a stage of the user's own yields.

A Map that cuts or draws a picture and forgets its width would have every reader of the shards
believe that of the picture before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import pyarrow as pa

from gristmill.dags.graph import IMAGE
from gristmill.errors import StageError
from gristmill.pipelines.download.picture_bytes import read_header
from gristmill.pipelines.download.strip_metadata import format_of
from gristmill.pipelines.schema import with_columns
from gristmill.pipelines.stage import Map

_TURNED = 5
"""From this EXIF orientation on width and height change places."""


def with_picture_facts(who: str, stage: Map, table: pa.Table, origin: Collection[str]) -> pa.Table:
    """`table`, which has the pictures that `stage` yielded, with `width`, `height` and `format` as
    their bytes say them, and for rows that are new (not in `origin`) the digest of their own bytes
    as `sha256`: a copy is told by it.

    Columns that the stage itself writes are held to the bytes: raises `StageError`.
    """
    own = set(stage.writes().names)
    names = [n for n in ("width", "height", "format", "sha256") if n in table.column_names]
    columns = {name: table[name].to_pylist() for name in names}
    uids, pictures = table["uid"].to_pylist(), table[IMAGE].to_pylist()
    for row, (uid, data) in enumerate(zip(uids, pictures, strict=True)):
        if data is None:
            continue
        if "sha256" in columns and "sha256" not in own and uid not in origin:
            columns["sha256"][row] = hashlib.sha256(data).hexdigest()
        facts = _facts(data)
        for name in facts.keys() & columns.keys():
            said = columns[name][row]
            if name not in own:
                columns[name][row] = facts[name][0]
            elif said not in facts[name]:
                raise StageError(
                    f"{who} yields a picture whose {name} is {facts[name][0]!r}, and says "
                    f"{said!r} (uid {uid}); give the right one by with_columns, or take {name!r} "
                    "out of writes(): it is read from the bytes then"
                )
    return with_columns(table, columns, table.schema)


def _facts(data: bytes) -> dict[str, tuple[object, ...]]:
    """What is right to say of a picture by column, as it should be said first; nothing of what is
    no picture."""
    kind, header = format_of(data), read_header(data)
    if kind is None or header is None:
        return {}
    sizes = [(header.width, header.height)]
    if header.orientation >= _TURNED:
        sizes.append((header.height, header.width))
    width, height = zip(*sizes, strict=True)
    return {"width": width, "height": height, "format": (kind,)}
